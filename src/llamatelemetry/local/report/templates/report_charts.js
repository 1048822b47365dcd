// Histograms of the latencies, and the calls and GPU metrics over time.

const MOST_CALLS_DRAWN = 20000;
const BINS = 60;

function histogram(id, title, values, color) {
  if (!values.length) return;
  const [low, high] = values.reduce(([least, most], value) => [Math.min(least, value), Math.max(most, value)], [Infinity, 0]);
  const raw = (high - low) / BINS || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const width = [1, 2, 5, 10].find((digit) => digit * power >= raw) * power;
  const counts = new Map();
  for (const value of values) {
    const bin = Math.floor(value / width);
    counts.set(bin, (counts.get(bin) || 0) + 1);
  }
  const bins = [...counts.keys()];
  const found = bins.map((bin) => counts.get(bin));
  const edges = bins.map((bin) => [bin * width, (bin + 1) * width]);
  drawChart(id, {
    title: `${title} (${values.length} calls)`,
    x: { title: "ms", low: 0 },
    y: [{ title: "Calls", low: 0 }],
    series: [{
      name: title, kind: "bars", color, x: edges.map(([from]) => from), x2: edges.map(([, to]) => to),
      y: found, y2: found.map(() => 0), tips: (at) => `${edges[at].map(plain).join(" to ")} ms: ${found[at]}`,
    }],
  });
}

function charts() {
  const calls = spans.filter((span) => span.call);
  const known = (of) => calls.map(of).filter((value) => value !== null && value !== undefined);
  histogram("chart-ttft", "Time to first token", known((span) => span.call.ttft), "var(--prefill)");
  histogram("chart-tpot", "Time per output token", known((span) => span.call.tpot), "var(--decode)");
  histogram("chart-duration", "Duration", known((span) => (span.failed ? null : span.duration / 1000)), "var(--call)");
  timeline(calls);
}

// Each call is a segment from its start to its end, at the height of its duration.
const segmentsOf = (calls, name, color) => ({
  name, color, kind: "segments", width: 3,
  x: calls.map((span) => span.start / 1000), x2: calls.map((span) => (span.start + span.duration) / 1000),
  y: calls.map((span) => span.duration / 1000),
  tips: (at) => `${calls[at].name}: ${milliseconds(calls[at].duration)}\n${clock(calls[at].start / 1000, true)}`,
});

function timeline(calls) {
  const every = Math.ceil(calls.length / MOST_CALLS_DRAWN) || 1;
  const some = calls.filter((span, at) => !span.failed && at % every === 0);
  const failed = calls.filter((span) => span.failed);
  const drawn = [segmentsOf(some, "calls", "var(--call)")];
  if (failed.length) drawn.push(segmentsOf(failed, "failed", "var(--bad)"));
  const series = [...gpu.values()].filter((each) => each.label === "load" || each.label === "power");
  if (!calls.length && !series.length) return;
  const devices = [...new Set(series.map((each) => each.device))];
  for (const each of series) {
    const isLoad = each.label === "load";
    const values = isLoad ? each.values.map((value) => value * 100) : each.values;
    const hue = (150 + 137.5 * devices.indexOf(each.device)) % 360;
    drawn.push({
      name: `${each.device} ${each.label}`, color: `hsl(${hue} 55% 45%)`, kind: "line", dash: isLoad ? "" : "2 3",
      axis: isLoad ? 1 : 2, x: each.times.map((us) => us / 1000), y: values,
      tips: (at) => `${each.device}: ${plain(values[at])} ${isLoad ? "%" : "W"}\n${clock(each.times[at] / 1000)}`,
    });
  }
  $("gpu-title").textContent = series.length ? " and GPUs" : "";
  const y = [{ title: "Duration (ms)", low: 0 }];
  if (series.length) {
    y[0].to = 0.52;
    y.push({ title: "GPU utilization (%)", from: 0.62, low: 0, high: 105 }, { title: "Power (W)", from: 0.62, low: 0, right: true });
  }
  drawChart("chart-timeline", { title: "", x: { title: "", type: "time" }, y, series: drawn, legend: true });
}
