// Distributions of the latencies, and the calls, GPUs and servers over time.

const MOST_CALLS_DRAWN = 20000;
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
  const calls = spans.filter((span) => span.call);
  distribution("chart-ttft", "Time to first token", calls, (span) => span.call.ttft, "var(--prefill)");
  distribution("chart-tpot", "Time per output token", calls, (span) => span.call.tpot, "var(--decode)");
  distribution("chart-duration", "Duration", calls, (span) => (span.failed ? null : span.duration / 1000), "var(--accent)");
  timeline(calls);
}

// Gives each call the first lane that is free at its start.
function lanes(calls) {
  const ends = [];
  const found = calls.map((span) => {
    let lane = ends.findIndex((end) => end <= span.start);
    if (lane < 0) lane = ends.length;
    ends[lane] = span.start + Math.max(span.duration, 1);
    return lane;
  });
  return [found, Math.max(1, ends.length)];
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

function timeline(calls) {
  const every = Math.ceil(calls.length / MOST_CALLS_DRAWN) || 1;
  const drawn = calls.sort((a, b) => a.start - b.start).filter((_, at) => at % every === 0);
  const panels = [...new Set([...metrics.values()].map((each) => each.panel))];
  $("timeline-title").parentElement.hidden = !calls.length && !panels.length;
  if (!calls.length && !panels.length) return;
  const [laneOf, count] = lanes(drawn);
  const [gap, each, calling] = [22, 84, calls.length ? Math.min(340, Math.max(44, count * 22)) : 0];
  const height = calling + panels.length * (each + gap);
  const y = [{ title: "Calls", low: -0.5, high: count - 0.5, reversed: true, bare: true, from: 0, to: calling / height }];
  panels.forEach((title, at) => {
    const from = calling + gap + at * (each + gap);
    y.push({ title, low: 0, ...(title.endsWith("(%)") ? { high: 105 } : {}), from: from / height, to: (from + each) / height });
  });
  const note = every > 1 ? `One of ${every} calls is drawn. ` : "";
  $("timeline-note").textContent = `${note}Each bar is a call, in as many lanes as calls ran at once. Click a bar to open its trace; drag to zoom, double-click to show everything.`;
  const series = [...partSeries(drawn, laneOf), ...metricSeries(panels)];
  drawChart("chart-timeline", { title: "", x: { title: "", type: "time" }, y, series, legend: true });
  const legend = $("chart-timeline").firstChild.offsetHeight;
  $("chart-timeline").style.height = height + legend + 46 + "px";
}
