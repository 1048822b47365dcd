// Distributions of the latencies, and the calls, GPUs and servers over time.

const MOST_CALLS_DRAWN = 400; // one by one in the chart over time
const COLUMNS = 240;
const FEW = 60; // calls that are drawn one by one instead of as a histogram
const BINS = 60;

function histogram(values, color) {
  const [low, high] = values.reduce(([least, most], { y }) => [Math.min(least, y), Math.max(most, y)], [Infinity, 0]);
  const raw = (high - low) / BINS || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const width = [1, 2, 5, 10].find((digit) => digit * power >= raw) * power;
  const counts = new Map();
  for (const { y } of values) {
    const bin = Math.floor(y / width);
    counts.set(bin, (counts.get(bin) || 0) + 1);
  }
  const bins = [...counts.keys()];
  const found = bins.map((bin) => counts.get(bin));
  const edges = bins.map((bin) => [bin * width, (bin + 1) * width]);
  return [{
    name: "calls", kind: "bars", color, x: edges.map(([from]) => from), x2: edges.map(([, to]) => to),
    y: found, y2: found.map(() => 0), tips: (at) => `${edges[at].map(plain).join(" to ")} ms: ${found[at]}`,
  }];
}

// The share of the calls that took at most so long, with a dot for each call.
function cumulative(values, color) {
  const sorted = values.sort((a, b) => a.y - b.y);
  const x = sorted.map(({ y }) => y);
  const y = sorted.map((_, at) => (100 * (at + 1)) / sorted.length);
  return [
    { name: "share", kind: "step", color, x: [x[0], ...x], y: [0, ...y] },
    {
      name: "calls", kind: "dots", color, width: 8, x, y, open: (at) => openSpan(sorted[at].span),
      tips: (at) => `${plain(x[at])} ms: ${sorted[at].span.name}\n${at + 1} of ${sorted.length} calls took at most this`,
    },
  ];
}

function distribution(id, title, calls, of, color) {
  const values = calls.map((span) => ({ span, y: of(span) })).filter(({ y }) => y !== null && y !== undefined);
  if (!values.length) return;
  const few = values.length <= FEW;
  drawChart(id, {
    title: `${title} (${grouped(values.length)} call${values.length === 1 ? "" : "s"})`,
    x: { title: "ms", low: 0 },
    y: [few ? { title: "Calls (%)", low: 0, high: 104 } : { title: "Calls", low: 0 }],
    series: few ? cumulative(values, color) : histogram(values, color),
  });
}

function charts() {
  const drawn = drawnCharts.get("chart-timeline");
  const calls = spans.filter((span) => span.call);
  distribution("chart-ttft", "Time to first token", calls, (span) => span.call.ttft, "var(--prefill)");
  distribution("chart-tpot", "Time per output token", calls, (span) => span.call.tpot, "var(--decode)");
  distribution("chart-duration", "Duration", calls, (span) => knownDuration(span) && knownDuration(span) / 1000, "var(--accent)");
  timeline(calls, drawn && drawn.zoom && drawn.zoom.x);
}

// Gives each call the first lane that is free at its start.
function lanes(calls) {
  const free = [];
  const found = calls.map((span) => {
    let lane = free.findIndex((end) => end <= span.start);
    if (lane < 0) lane = free.length;
    free[lane] = span.start + Math.max(span.duration, 1);
    return lane;
  });
  return [found, Math.max(1, free.length)];
}

// One series for each kind of part; each of its bars is a part of a call.
function partSeries(calls, laneOf) {
  const found = new Map();
  const bar = (name, span, at, start, us) => {
    if (!found.has(name)) {
      const each = { name: titleOf(name), color: colorOf(name), kind: "bars", x: [], x2: [], y: [], y2: [], of: [] };
      each.tips = (index) => `${each.of[index].name}: ${milliseconds(each.of[index].duration)}\n${each.name}: ${milliseconds(1000 * (each.x2[index] - each.x[index]))}\n${clock(each.of[index].start / 1000, true)}`;
      each.open = (index) => openSpan(each.of[index]);
      found.set(name, each);
    }
    const each = found.get(name);
    each.x.push(start / 1000);
    each.x2.push((start + us) / 1000);
    each.y.push(laneOf[at] - 0.4);
    each.y2.push(laneOf[at] + 0.4);
    each.of.push(span);
  };
  calls.forEach((span, at) => {
    if (span.failed) return bar("failed", span, at, span.start, span.duration);
    let start = span.start;
    for (const { name, us } of span.parts()) {
      bar(name, span, at, start, us);
      start += us;
    }
  });
  if (found.has("failed")) found.get("failed").color = "var(--bad)";
  const order = Object.keys(titles);
  return [...found].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b)).map(([, each]) => each);
}

function metricSeries(panels) {
  const COLORS = ["var(--accent)", "var(--again)", "var(--decode)", "var(--shared)", "var(--client)", "var(--server)"];
  return [...metrics.values()].map((each) => {
    const at = panels.indexOf(each.panel);
    const beside = [...metrics.values()].filter((other) => other.panel === each.panel);
    const many = beside.some((other) => other.device !== each.device);
    const name = `${each.panel.replace(/ \(.*/, "")} ${each.name}${many || each.panel.startsWith("GPU") ? `, ${each.device}` : ""}`;
    return {
      name, color: COLORS[beside.indexOf(each) % COLORS.length], kind: "line", axis: at + 1, dash: beside.indexOf(each) % 2 ? "5 3" : "",
      x: each.times.map((us) => us / 1000), y: each.values,
      tips: (index) => `${name}: ${plain(each.values[index])}\n${clock(each.times[index] / 1000)}`,
    };
  });
}

// How many calls were in each part on average, in each of the equal times between two points.
function stackedSeries(calls, [from, to]) {
  const width = (to - from) / COLUMNS || 1;
  const sums = new Map();
  const longest = new Array(COLUMNS).fill(null);
  const addTo = (name, start, end) => {
    if (!sums.has(name)) sums.set(name, new Float64Array(COLUMNS));
    const counts = sums.get(name);
    for (let at = Math.max(0, Math.floor((start - from) / width)); at < COLUMNS && from + at * width < end; at++) {
      counts[at] += (Math.min(end, from + (at + 1) * width) - Math.max(start, from + at * width)) / width;
    }
  };
  for (const span of calls) {
    let start = span.start;
    for (const { name, us } of span.failed ? [{ name: "failed", us: span.duration }] : span.parts()) {
      addTo(name, start, start + us);
      start += us;
    }
    const at = Math.min(COLUMNS - 1, Math.max(0, Math.floor((span.start - from) / width)));
    if (!longest[at] || longest[at].duration < span.duration) longest[at] = span;
  }
  const base = new Float64Array(COLUMNS);
  const x = Array.from(base, (_, at) => (from + at * width) / 1000);
  const order = Object.keys(titles);
  return [...sums].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b)).map(([name, counts]) => {
    const y2 = Array.from(base);
    counts.forEach((count, at) => (base[at] += count));
    const title = titleOf(name);
    return {
      name: title, color: name === "failed" ? "var(--bad)" : colorOf(name), kind: "bars", x, x2: x.map((each) => each + width / 1000), y: Array.from(base), y2,
      tips: (at) => `${title}: ${plain(Number(counts[at].toFixed(2)))} of ${plain(Number(base[at].toFixed(2)))} calls at once\n${clock(x[at])}`,
      open: (at) => longest[at] && openSpan(longest[at]),
    };
  });
}

const ends = (calls) => calls.reduce(([from, to], span) => [Math.min(from, span.start), Math.max(to, span.start + span.duration)], [Infinity, -Infinity]);

// Few calls in the shown range are drawn one by one, many as their number.
function timeline(all, range) {
  const panels = [...new Set([...metrics.values()].map((each) => each.panel))];
  $("timeline-title").parentElement.hidden = !all.length && !panels.length;
  if (!all.length && !panels.length) return;
  const shown = (range || [-Infinity, Infinity]).map((ms) => ms * 1000);
  const calls = all.filter((span) => span.start <= shown[1] && span.start + span.duration >= shown[0]).sort((a, b) => a.start - b.start);
  const single = calls.length <= MOST_CALLS_DRAWN;
  const [laneOf, count] = single ? lanes(calls) : [[], 0];
  const [gap, each, calling] = [22, 84, calls.length ? (single ? Math.min(340, Math.max(44, count * 22)) : 190) : 0];
  const height = calling + panels.length * (each + gap);
  const room = { from: 0, to: calling / height };
  const y = [single ? { title: "Calls", low: -0.5, high: count - 0.5, reversed: true, bare: true, ...room } : { title: "Calls at once", low: 0, ...room }];
  panels.forEach((title, at) => {
    const from = calling + gap + at * (each + gap);
    y.push({ title, low: 0, ...(title.endsWith("(%)") ? { high: 105 } : {}), from: from / height, to: (from + each) / height });
  });
  $("timeline-note").textContent = single
    ? "Each bar is a call, in as many lanes as calls ran at once. Click a bar to open its trace; drag to zoom, double-click to show everything."
    : "The height is the number of calls at once. Drag to zoom in until each call is drawn; click to open the longest call that started there.";
  const range_us = range ? shown : ends(calls);
  const series = [...(single ? partSeries(calls, laneOf) : stackedSeries(calls, range_us)), ...metricSeries(panels)];
  drawChart("chart-timeline", { title: "", x: { title: "", type: "time" }, y, series, legend: true, zoomed: (next) => timeline(all, next) });
  const legend = $("chart-timeline").firstChild.offsetHeight;
  $("chart-timeline").style.height = height + legend + 46 + "px";
}
