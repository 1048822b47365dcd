// The top of the page: figures, where the time went, the calls, and the table by model.

const PART_COLORS = {
  queue: "--queue", queue_batch: "--queue", prefill: "--prefill", prefill_new: "--prefill", prefill_again: "--again",
  decode: "--decode", others_prompts: "--shared", batch: "--shared",
  connect: "--network", retry: "--network", network_before: "--network", network_stream: "--network", before_first_token: "--network",
  client_before_send: "--client", client_late: "--client",
  server_stopped: "--server", server_cpu_wait: "--server", model_load: "--server", throttled: "--server",
};
// Parts that share a color with another one.
const STRIPED = new Set(["queue_batch", "batch", "connect", "network_stream", "client_late", "server_cpu_wait", "throttled", "after_first_token"]);

const ON_DARK = new Set(["--prefill", "--server"]);

const colorOf = (name) => `var(${PART_COLORS[name] || "--other"})`;
const titleOf = (name) => titles[name] || name.replaceAll("_", " ");
const share = (part, whole) => (whole ? (100 * part) / whole : 0);
const percent = (part, whole) => {
  const found = share(part, whole);
  return (found >= 9.95 || found === 0 ? found.toFixed(0) : found.toFixed(1)) + " %";
};

function swatch(name) {
  const box = element("i", STRIPED.has(name) ? "of-striped" : "");
  box.style.setProperty("--of", colorOf(name));
  box.style.backgroundColor = colorOf(name);
  return box;
}

// Fills a bar with parts; its length is the part `scale` of the room.
function timeBar(box, parts, scale) {
  const whole = parts.reduce((sum, part) => sum + part.us, 0);
  box.replaceChildren(...parts.map(({ name, us }) => {
    const piece = element("span", STRIPED.has(name) ? "of-striped" : "");
    piece.style.width = share(us, whole) * scale + "%";
    piece.style.backgroundColor = colorOf(name);
    piece.title = `${titleOf(name)}: ${milliseconds(us)}, ${percent(us, whole)}`;
    return piece;
  }));
  box.setAttribute("aria-label", parts.map(({ name, us }) => `${titleOf(name)} ${percent(us, whole)}`).join(", "));
  return box;
}

function totalTime(calls) {
  const sums = new Map(Object.entries(rest.parts));
  for (const span of calls) for (const { name, us } of span.parts()) sums.set(name, (sums.get(name) || 0) + us);
  const order = Object.keys(titles);
  const parts = [...sums].map(([name, us]) => ({ name, us })).sort((a, b) => order.indexOf(a.name) - order.indexOf(b.name));
  const whole = parts.reduce((sum, part) => sum + part.us, 0);
  timeBar($("all-time"), parts, 1);
  parts.forEach((part, at) => {
    if (share(part.us, whole) >= 12) $("all-time").children[at].append(element("b", ON_DARK.has(PART_COLORS[part.name]) ? "on-dark" : "", percent(part.us, whole)));
  });
  $("time-legend").replaceChildren(...parts.sort((a, b) => b.us - a.us).map(({ name, us }) => {
    const item = element("li");
    item.append(swatch(name), element("span", "", titleOf(name)), element("small", "", `${milliseconds(us)} · ${percent(us, whole)}`));
    return item;
  }));
}

// One sentence about the time of a call: that of `why`, else its largest part.
function sentenceOf(span) {
  const { call } = span;
  if (call.error) return `failed: ${call.error}${span.message ? `: ${span.message}` : ""}`;
  if (call.why) return call.why;
  const [most] = span.parts().sort((a, b) => b.us - a.us);
  if (!most || most.name === "unexplained") return "no phases known: neither the engine nor a stream told any";
  return `${titleOf(most.name)}: ${milliseconds(most.us)}, ${percent(most.us, span.duration)} of the call`;
}

function drawCall(row, span) {
  const { call } = span;
  const tokens = tokensIn(span) ? `${call.input ?? "–"} → ${call.output ?? "–"} tokens` : "";
  row.classList.toggle("failed", span.failed);
  const place = (item, column, line) => {
    item.style.gridArea = `${line} / ${column}`;
    return item;
  };
  const sentence = element("span", "faint sentence", sentenceOf(span));
  sentence.title = sentence.textContent;
  const name = element("span", "name", [call.operation, call.model].filter(Boolean).join(" · "));
  name.title = name.textContent;
  row.append(name, timeBar(element("span", "time"), span.parts(), share(span.duration, longest) / 100), element("span", "right", milliseconds(span.duration)));
  if (innerWidth > 700) row.append(place(element("span", "faint", tokens), 1, 2));
  row.append(sentence);
}

let longest = 1;
const CALL_ORDERS = {
  slowest: (a, b) => b.duration - a.duration,
  oldest: (a, b) => a.start - b.start,
  tokens: (a, b) => tokensIn(b) - tokensIn(a),
};

function figures(calls) {
  const known = (of) => calls.map(of).filter((value) => value !== null && value !== undefined);
  const sum = (values, more) => values.reduce((total, value) => total + value, more);
  const middle = (values) => {
    const sorted = values.sort((a, b) => a - b);
    const at = (sorted.length - 1) / 2;
    return (sorted[Math.floor(at)] + sorted[Math.ceil(at)]) / 2;
  };
  const found = [["Calls", grouped(calls.length + rest.calls)], ["Errors", grouped(calls.filter((span) => span.failed).length + rest.failed), "failed"]];
  const [input, cached, output] = ["input", "cached", "output"].map((key) => known((span) => span.call[key]));
  const [inputs, reused] = [sum(input, rest.input), sum(cached, rest.cached)];
  if (input.length) found.push(["Input tokens", grouped(inputs)]);
  if (cached.length && inputs) found.push(["from the prompt cache", percent(reused, inputs)]);
  if (output.length) found.push(["Output tokens", grouped(sum(output, rest.output))]);
  const medians = [
    ["Duration, p50", knownDuration],
    ["TTFT, p50", ({ call }) => call.ttft && call.ttft * 1000],
    ["TPOT, p50", ({ call }) => call.tpot && call.tpot * 1000],
  ];
  // The median of the calls on the page is not that of all calls.
  for (const [name, of] of rest.calls ? [] : medians) {
    const values = known(of);
    if (values.length) found.push([name, milliseconds(middle(values))]);
  }
  $("figures").replaceChildren(...found.map(([name, text, style]) => {
    const item = element("li");
    item.append(element("b", style && text !== "0" ? style : "", text), element("span", "", name));
    return item;
  }));
}

// Columns that no row knows are left out.
function table(columns, rows) {
  const shown = columns.map((_, at) => at).filter((at) => at < 4 || rows.some((row) => row[at] !== "–"));
  const head = element("thead");
  const cells = (row, tag, of) => {
    row.append(...shown.map((at) => {
      const cell = element(tag, at < 2 ? "text" : "", of(at));
      if (tag === "td") cell.dataset.label = columns[at];
      cell.classList.toggle("unknown", cell.textContent === "–");
      return cell;
    }));
    return row;
  };
  head.append(cells(element("tr"), "th", (at) => columns[at]));
  const body = element("tbody");
  body.append(...rows.map((row) => cells(element("tr", row[3] ? "failed" : ""), "td", (at) => (typeof row[at] === "number" ? grouped(row[at]) : String(row[at])))));
  $("summary").replaceChildren(head, body);
}

function overview(summary) {
  const calls = spans.filter((span) => span.call);
  for (const id of ["time-title", "summary-title", "latency-title"]) $(id).parentElement.hidden = !calls.length;
  figures(calls);
  totalTime(calls);
  longest = calls.reduce((most, span) => Math.max(most, span.duration), 1);
  callList.set(calls.sort(CALL_ORDERS[$("calls-order").value]), true);
  table(summary.columns, summary.rows);
}
