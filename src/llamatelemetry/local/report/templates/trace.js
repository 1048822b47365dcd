// A trace: its spans as a waterfall. The selected span is shown in detail below.

const ROLES = [
  ["other", "--other"], ["model call", "--accent"], ["queue", "--queue"], ["prefill", "--prefill"], ["decode", "--decode"],
  ["workflow or agent", "--server"], ["tool", "--again"], ["HTTP request", "--network"], ["server", "--shared"],
];

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

function drawSpan(row, { span, depth, whole }) {
  const label = element("span", "label" + (span.failed ? " failed" : ""), span.name);
  label.style.paddingLeft = Math.min(depth, 10) * (innerWidth > 700 ? 14 : 8) + "px";
  label.title = span.name;
  const track = element("span", "track");
  const bar = element("span", "bar" + (span.failed ? " bad" : ""));
  bar.style.setProperty("--of", `var(${ROLES[span.role][1]})`);
  const length = Math.max(1, whole.end - whole.start);
  bar.style.left = Math.min(99.6, share(span.start - whole.start, length)) + "%";
  bar.style.width = share(span.duration, length) + "%";
  bar.title = `${ROLES[span.role][0]}: ${milliseconds(span.duration)}`;
  track.append(bar);
  row.append(label, track, element("span", "right", milliseconds(span.duration)));
}

let waterfall = null;

function legendOfRoles(whole) {
  const list = element("ul", "parts");
  for (const role of [...new Set(whole.spans.map((span) => span.role))].sort()) {
    const item = element("li");
    const mark = element("i");
    mark.style.setProperty("--of", `var(${ROLES[role][1]})`);
    item.append(mark, element("span", "", ROLES[role][0]));
    list.append(item);
  }
  return list;
}

function showTrace(whole) {
  const length = whole.end - whole.start;
  const root = rootOf(whole);
  const facts = [
    new Date(whole.start / 1000).toLocaleString(), milliseconds(length), `${whole.spans.length} span${whole.spans.length === 1 ? "" : "s"}`,
    ...(whole.calls ? [`${whole.calls} call${whole.calls === 1 ? "" : "s"}`] : []), ...(whole.tokens ? [`${grouped(whole.tokens)} tokens`] : []),
  ];
  const link = element("a", "", `trace ${whole.id}`);
  link.href = `#${whole.id}`;
  const line = element("p", "note", facts.join(" · ") + " · ");
  line.append(link);
  const ticks = element("div", "ticks");
  ticks.append(...[0, 0.25, 0.5, 0.75, 1].map((part) => element("span", "", part ? milliseconds(length * part) : "0")));
  const rows = element("div", "rows");
  rows.id = "waterfall";
  rows.tabIndex = 0;
  rows.setAttribute("role", "listbox");
  rows.setAttribute("aria-label", "Spans of the trace; select with the arrow keys");
  const details = element("div");
  details.id = "details";
  details.setAttribute("aria-live", "polite");
  $("trace").replaceChildren(element("h3", whole.failed ? "failed" : "", root.name), line, legendOfRoles(whole), ticks, rows, details);
  waterfall = new Rows(rows, drawSpan, ({ span }) => {
    address(span);
    showDetails(span);
  });
  waterfall.whole = whole;
  waterfall.set(inOrder(whole), false);
}

// The span that is shown first: the slowest call, else the root.
function firstSpan(whole) {
  const calls = whole.spans.filter((span) => span.call).sort((a, b) => b.duration - a.duration);
  return whole.spans.find((span) => span.failed && span.call) || calls[0] || rootOf(whole);
}
