// Recorded data is inserted as text (textContent) only, never as HTML.

const ROW = 26;
const MESSAGES = ["gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages"];
const $ = (id) => document.getElementById(id);

function element(tag, className, text) {
  const created = document.createElement(tag);
  if (className) created.className = className;
  if (text !== undefined) created.textContent = text;
  return created;
}

const shownAs = (value) => (typeof value === "string" ? value : JSON.stringify(value));

const milliseconds = (us) => {
  const ms = us / 1000;
  if (ms >= 10000) return (ms / 1000).toFixed(1) + " s";
  return (ms >= 9.95 ? ms.toFixed(0) : ms.toFixed(1)) + " ms";
};

const spans = [];
const byId = new Map();
const traces = new Map();
const gpu = new Map();

function add(chunk) {
  for (let row = 0; row < chunk.spans.id.length; row++) {
    const span = spanOf(chunk, row);
    const known = byId.get(span.trace + span.id);
    if (known) {
      // Another span of the same call has arrived.
      traces.get(span.trace).tokens += tokensOf(span) - tokensOf(known);
      Object.assign(known, { call: span.call, role: span.role });
      continue;
    }
    byId.set(span.trace + span.id, span);
    spans.push(span);
    addToTrace(span);
  }
  for (const series of chunk.gpu) {
    const key = series.metric + " " + series.device;
    const known = gpu.get(key);
    if (known) {
      known.times = known.times.concat(series.times);
      known.values = known.values.concat(series.values);
    } else gpu.set(key, series);
  }
  $("counts").textContent = `${spans.length} spans in ${traces.size} traces`;
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
  return {
    trace: value(rows.trace[row]), id: rows.id[row], parent: rows.parent[row],
    name: value(rows.name[row]), service: value(rows.service[row]), process: value(rows.process[row]),
    start: rows.start[row], duration: rows.duration[row],
    failed: Boolean(rows.failed[row]), message: value(rows.message[row]), role: rows.role[row],
    call: call && {
      operation: value(call[0]), model: value(call[1]), input: call[2], output: call[3],
      ttft: call[4], tpot: call[5], error: value(call[6]),
    },
    // Functions, because the attributes of most spans are never shown.
    attributes: () => pairs(rows.attributes[row]),
    events: () => (chunk.events[row] || []).map(([name, time, flat]) => ({ name: value(name), time, attributes: pairs(flat) })),
  };
}

const tokensOf = (span) => (span.call ? (span.call.input || 0) + (span.call.output || 0) : 0);

function addToTrace(span) {
  let whole = traces.get(span.trace);
  if (!whole) {
    whole = { id: span.trace, spans: [], start: Infinity, end: 0, failed: false, tokens: 0 };
    traces.set(span.trace, whole);
  }
  whole.spans.push(span);
  whole.start = Math.min(whole.start, span.start);
  whole.end = Math.max(whole.end, span.start + span.duration);
  whole.failed = whole.failed || span.failed;
  whole.tokens += tokensOf(span);
  whole.text = undefined;
}

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
      words.add(span.name).add(span.service);
      if (span.call) words.add(span.call.model || "").add(span.call.error || "");
    }
    whole.text = [...words].join("\n").toLowerCase();
  }
  return whole.text;
}

// A list that creates elements only for its visible rows.
class Rows {
  constructor(box, draw, onSelect) {
    this.box = box;
    this.draw = draw;
    this.onSelect = onSelect;
    this.items = [];
    this.at = -1;
    this.space = element("div");
    box.append(this.space);
    box.addEventListener("scroll", () => this.paint());
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("mousedown", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(Number(row.dataset.at));
    });
    new ResizeObserver(() => this.paint()).observe(box);
  }

  set(items, keep) {
    const before = keep && this.items[this.at];
    this.items = items;
    this.at = before ? items.indexOf(before) : -1;
    this.space.style.height = items.length * ROW + "px";
    if (!keep) this.box.scrollTop = 0;
    this.paint();
  }

  paint() {
    for (const row of this.box.querySelectorAll(".row")) row.remove();
    const first = Math.max(0, Math.floor(this.box.scrollTop / ROW) - 5);
    const last = Math.min(this.items.length, first + Math.ceil(this.box.clientHeight / ROW) + 10);
    for (let at = first; at < last; at++) this.box.append(this.row(at));
    if (this.at >= 0) this.box.setAttribute("aria-activedescendant", `${this.box.id}-${this.at}`);
    else this.box.removeAttribute("aria-activedescendant");
  }

  row(at) {
    const row = element("div", "row");
    row.id = `${this.box.id}-${at}`;
    row.setAttribute("role", "option");
    row.setAttribute("aria-selected", String(at === this.at));
    row.setAttribute("aria-setsize", String(this.items.length));
    row.setAttribute("aria-posinset", String(at + 1));
    row.dataset.at = String(at);
    row.style.top = at * ROW + "px";
    this.draw(row, this.items[at]);
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.items.length) return;
    event.preventDefault();
    this.choose(Math.min(this.items.length - 1, Math.max(0, this.at + steps[event.key])));
  }

  choose(at) {
    this.at = at;
    const top = at * ROW;
    const height = this.box.clientHeight;
    if (top < this.box.scrollTop) this.box.scrollTop = top;
    else if (top + ROW > this.box.scrollTop + height) this.box.scrollTop = top + ROW - height;
    this.paint();
    this.onSelect(this.items[at]);
  }
}

function drawTrace(row, whole) {
  const root = rootOf(whole);
  if (whole.failed) row.classList.add("failed");
  row.append(
    element("span", "faint", new Date(whole.start / 1000).toLocaleTimeString()),
    element("span", "name", root.name),
    element("span", "faint", whole.spans.length + (whole.spans.length === 1 ? " span" : " spans")),
    element("span", "faint right", whole.tokens ? whole.tokens + " tokens" : ""),
    element("span", "right", milliseconds(whole.end - whole.start)),
  );
  row.title = `${root.name} (${root.service})`;
}

function drawSpan(row, { span, depth, whole }) {
  const label = element("span", "label" + (span.failed ? " failed" : ""), span.name);
  label.style.paddingLeft = Math.min(depth, 12) * 14 + "px";
  label.title = span.name;
  const track = element("span", "track");
  const bar = element("span", `bar role-${span.role}` + (span.failed ? " bad" : ""));
  const length = Math.max(1, whole.end - whole.start);
  bar.style.left = (100 * (span.start - whole.start)) / length + "%";
  bar.style.width = (100 * span.duration) / length + "%";
  track.append(bar);
  row.append(label, track, element("span", "right", milliseconds(span.duration)));
}

function inOrder(whole) {
  const children = new Map();
  const roots = [];
  for (const span of whole.spans) {
    if (!hasParent(span)) roots.push(span);
    else if (children.has(span.parent)) children.get(span.parent).push(span);
    else children.set(span.parent, [span]);
  }
  // A stack returns the last item first, so the earliest span is pushed last.
  const latestFirst = (some) => some.sort((a, b) => b.start - a.start);
  const stack = latestFirst(roots).map((span) => ({ span, depth: 0, whole }));
  const items = [];
  const seen = new Set();
  while (stack.length) {
    const item = stack.pop();
    if (seen.has(item.span.id)) continue;
    seen.add(item.span.id);
    items.push(item);
    for (const span of latestFirst(children.get(item.span.id) || [])) stack.push({ span, depth: item.depth + 1, whole });
  }
  return items;
}

function showTrace(whole) {
  const took = milliseconds(whole.end - whole.start);
  $("waterfall-title").textContent = `${rootOf(whole).name} · ${took} · trace ${whole.id}`;
  waterfall.set(inOrder(whole), false);
  $("details").replaceChildren();
  if (waterfall.items.length) waterfall.choose(0);
}

function showSpan({ span }) {
  const list = element("dl");
  const line = (key, value) => list.append(element("dt", "", key), element("dd", "", shownAs(value)));
  line("name", span.name);
  line("service", `${span.service} (process ${span.process})`);
  line("duration", milliseconds(span.duration));
  if (span.failed) line("error", span.message || "yes");
  const boxes = [];
  for (const [key, value] of span.attributes()) {
    if (MESSAGES.includes(key)) boxes.push(...messageBoxes(key, value));
    else line(key, value);
  }
  for (const event of span.events()) {
    const box = element("div", "message");
    box.append(element("b", "", `${event.name} after ${milliseconds(event.time - span.start)}`));
    for (const [key, value] of event.attributes) box.append(element("pre", "", `${key}: ${shownAs(value)}`));
    boxes.push(box);
  }
  $("details").replaceChildren(list, ...boxes);
}

function messageBoxes(key, value) {
  let parsed = value;
  if (typeof value === "string") {
    try {
      parsed = JSON.parse(value);
    } catch {
      parsed = [{ role: key, parts: [{ type: "text", content: value }] }];
    }
  }
  if (key === MESSAGES[0]) parsed = [{ role: "system", parts: parsed }];
  return [parsed].flat().map((message) => messageBox(message || {}, key === MESSAGES[2] ? "output" : "input"));
}

function messageBox(message, direction) {
  const box = element("div", "message");
  box.append(element("b", "", `${message.role || "?"} (${direction})`));
  for (const part of message.parts || []) {
    const content = part && typeof part.content === "string" ? part.content : JSON.stringify(part, null, 1);
    box.append(element("pre", "", part && part.type && part.type !== "text" ? `${part.type}: ${content}` : content));
  }
  return box;
}

const list = new Rows($("list"), drawTrace, showTrace);
const waterfall = new Rows($("waterfall"), drawSpan, showSpan);
const ORDERS = {
  newest: (a, b) => b.start - a.start,
  slowest: (a, b) => b.end - b.start - (a.end - a.start),
  tokens: (a, b) => b.tokens - a.tokens,
};

function filtered(keep) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const errors = $("only-errors").checked;
  const found = [...traces.values()].filter(
    (whole) => (!errors || whole.failed) && words.every((word) => textOf(whole).includes(word)),
  );
  list.set(found.sort(ORDERS[$("order").value]), keep);
  $("shown").textContent = `${found.length} of ${traces.size}`;
}

for (const id of ["filter", "only-errors", "order"]) $(id).addEventListener("input", () => filtered(false));

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

function summary(found) {
  const rows = found.map((cells) => {
    const row = element("tr", cells[3] ? "failed" : ""); // number of errors
    row.append(...cells.map((cell) => element("td", "", String(cell))));
    return row;
  });
  if (rows.length) $("summary").replaceChildren(...rows);
}

async function poll(after) {
  try {
    const response = await fetch(`data?after=${after}`, { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    const more = await response.json();
    if (more.columns.spans.id.length || more.columns.gpu.length) {
      add(more.columns);
      filtered(true);
      charts();
      summary(more.summary);
    }
    setTimeout(poll, 1000, more.next);
  } catch {
    $("state").textContent = "The command has exited.";
  }
}

unpacked($("data").textContent).then((data) => {
  add(data);
  filtered(false);
  charts();
  document.documentElement.dataset.ready = "true";
  if (LIVE) poll(data.next);
});
