// The recorded spans and traces. Recorded data is inserted as text (textContent) only, never as HTML.

const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

const shownAs = (value) => (typeof value === "string" ? value : JSON.stringify(value));
const grouped = (number) => number.toLocaleString("en-US");

// Rounds a number for reading: three or four digits.
const rounded = (value) => {
  const digits = Math.abs(value) >= 99.5 ? 0 : Math.abs(value) >= 9.95 ? 1 : 2;
  return grouped(Number(value.toFixed(digits)));
};

// The duration of a span without an end, or during which the clock was set back, is negative.
const milliseconds = (us) => {
  if (us < 0) return "–";
  const ms = us / 1000;
  const s = Math.round(ms / 1000);
  if (s >= 120) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (ms >= 10000) return (ms / 1000).toFixed(1) + " s";
  return (ms >= 9.95 ? grouped(Math.round(ms)) : ms.toFixed(1)) + " ms";
};

const spans = [];
const byId = new Map();
const traces = new Map();
const metrics = new Map();
let titles = {};
// Counts of the records that a page of a large recording leaves out.
let rest = { spans: 0, traces: 0, calls: 0, failed: 0, input: 0, cached: 0, output: 0, parts: {} };

function add(chunk) {
  for (let row = 0; row < chunk.spans.id.length; row++) {
    const span = spanOf(chunk, row);
    const known = byId.get(span.trace + span.id);
    if (known) {
      // Another span of the same call has arrived, or its content.
      const whole = traces.get(span.trace);
      whole.tokens += tokensIn(span) - tokensIn(known);
      whole.calls += Number(Boolean(span.call)) - Number(Boolean(known.call));
      Object.assign(known, { call: span.call, role: span.role, parts: span.parts, attributes: span.attributes, brief: span.brief });
      continue;
    }
    byId.set(span.trace + span.id, span);
    spans.push(span);
    addToTrace(span);
  }
  for (const series of chunk.series) {
    const key = [series.panel, series.name, series.device].join("\n");
    const known = metrics.get(key);
    if (known) {
      known.times = known.times.concat(series.times);
      known.values = known.values.concat(series.values);
    } else metrics.set(key, series);
  }
  const noun = (count, name) => `${grouped(count)} ${name}${count === 1 ? "" : "s"}`;
  $("counts").textContent = `${noun(spans.length + rest.spans, "span")} in ${noun(traces.size + rest.traces, "trace")}`;
  document.body.classList.toggle("empty", !spans.length);
}

function spanOf(chunk, row) {
  const value = (at) => chunk.values[at];
  const rows = chunk.spans;
  const call = rows.call[row];
  const pairs = (flat) => {
    const found = [];
    for (let at = 0; at < flat.length; at += 2) found.push([value(flat[at]), value(flat[at + 1])]);
    return found;
  };
  // Functions, because the attributes of most spans are never shown.
  return {
    trace: value(rows.trace[row]), id: rows.id[row], parent: rows.parent[row],
    name: value(rows.name[row]), scope: value(rows.scope[row]),
    start: chunk.base + rows.start[row], duration: rows.duration[row],
    failed: Boolean(rows.failed[row]), message: value(rows.message[row]), role: rows.role[row],
    call: call && {
      operation: value(call[0]), model: value(call[1]), input: call[2], cached: call[3], output: call[4],
      ttft: call[5], tpot: call[6], error: value(call[7]), why: value(rows.why[row]),
    },
    parts: () => {
      const found = [];
      const flat = rows.parts[row] || [];
      for (let at = 0; at < flat.length; at += 3) found.push({ name: value(flat[at]), us: flat[at + 1], evidence: value(flat[at + 2]) });
      return found;
    },
    resource: () => pairs(chunk.resources[rows.resource[row]]),
    brief: !rows.attributes[row],
    attributes: () => pairs(rows.attributes[row] || []),
    events: () => (chunk.events[row] || []).map(([name, time, flat]) => ({ name: value(name), time, attributes: pairs(flat) })),
    links: () => (chunk.links[row] || []).map(([trace, id, flat]) => ({ trace, id, attributes: pairs(flat) })),
  };
}

const knownDuration = (span) => (span.failed || span.duration < 0 ? null : span.duration);

const tokensIn = ({ call }) => (call ? (call.input || 0) + (call.output || 0) : 0);

function addToTrace(span) {
  let whole = traces.get(span.trace);
  if (!whole) {
    whole = { id: span.trace, spans: [], start: Infinity, end: 0, failed: false, tokens: 0, calls: 0 };
    traces.set(span.trace, whole);
  }
  whole.spans.push(span);
  whole.start = Math.min(whole.start, span.start);
  whole.end = Math.max(whole.end, span.start + span.duration);
  whole.failed = whole.failed || span.failed;
  whole.calls += span.call ? 1 : 0;
  whole.tokens += tokensIn(span);
  whole.text = undefined;
}

const serviceOf = (span) => (span.resource().find(([key]) => key === "service.name") || [])[1] || "";
const hasParent = (span) => span.parent !== "" && byId.has(span.trace + span.parent);

function rootOf(whole) {
  let best = null;
  for (const span of whole.spans) {
    if (!hasParent(span) && (!best || span.start < best.start)) best = span;
  }
  return best || whole.spans[0];
}

function textOf(whole) {
  if (whole.text === undefined) {
    const words = new Set([whole.id]);
    for (const span of whole.spans) {
      words.add(span.name).add(serviceOf(span));
      if (span.call) words.add(span.call.model || "").add(span.call.error || "").add(span.call.why);
    }
    whole.text = [...words].join("\n").toLowerCase();
  }
  return whole.text;
}
