// The list of traces, addresses of traces and spans (#trace/span), the keyboard, and live updates.

const callList = new Rows($("calls"), drawCall, (span) => openSpan(span, false));
const list = new Rows($("list"), drawTrace, (whole) => show(whole, firstSpan(whole)));
const ORDERS = {
  newest: (a, b) => b.start - a.start,
  oldest: (a, b) => a.start - b.start,
  slowest: (a, b) => b.end - b.start - (a.end - a.start),
  tokens: (a, b) => b.tokens - a.tokens,
};

function drawTrace(row, whole) {
  const root = rootOf(whole);
  row.classList.toggle("failed", whole.failed);
  row.append(
    element("span", "name", root.name),
    element("span", "right", milliseconds(whole.end - whole.start)),
    element("span", "faint", `${clock(whole.start / 1000)} · ${whole.spans.length} span${whole.spans.length === 1 ? "" : "s"}`),
    element("span", "faint right", whole.tokens ? `${grouped(whole.tokens)} tokens` : ""),
  );
  row.title = root.name;
}

function filtered(keep) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const errors = $("only-errors").checked;
  const found = [...traces.values()].filter(
    (whole) => (!errors || whole.failed) && words.every((word) => textOf(whole).includes(word)),
  );
  list.set(found.sort(ORDERS[$("order").value]), keep);
  $("shown").textContent = `${grouped(found.length)} of ${grouped(traces.size)}`;
}

function address(span) {
  history.replaceState(null, "", `#${span.trace}/${span.id}`);
}

function show(whole, span) {
  if (!waterfall || waterfall.whole !== whole) showTrace(whole);
  const at = waterfall.items.findIndex((item) => item.span === span);
  if (at >= 0) waterfall.choose(at);
}

// Shows a span of any trace, and by default scrolls to it and moves the focus there.
function openSpan(span, focus = true) {
  const whole = traces.get(span.trace);
  const at = list.items.indexOf(whole);
  if (at >= 0) list.mark(at);
  show(whole, span);
  if (!focus) return;
  $("traces-title").scrollIntoView();
  if (innerWidth <= 900) $("trace").scrollIntoView();
  $("waterfall").focus({ preventScroll: true });
}

function openAddress() {
  const [, trace, id] = /^#([0-9a-f]+)(?:\/([0-9a-f]+))?$/.exec(location.hash) || [];
  const whole = traces.get(trace);
  if (whole) openSpan(byId.get(trace + id) || firstSpan(whole));
}

for (const id of ["filter", "only-errors", "order"]) $(id).addEventListener("input", () => filtered(false));
$("calls-order").addEventListener("input", () => callList.set(callList.items.sort(CALL_ORDERS[$("calls-order").value]), false));
addEventListener("hashchange", openAddress);
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("filter").focus();
  } else if (event.key === "Escape" && $("trace").contains(event.target)) $("list").focus();
  else if (event.key === "Enter" && event.target === $("filter")) $("list").focus();
  else if (event.key === "Enter" && event.target === $("list") && waterfall) $("waterfall").focus();
  else if (event.key === "Enter" && event.target === $("calls") && callList.at >= 0) openSpan(callList.items[callList.at]);
});

async function unpacked(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

async function poll(after) {
  try {
    const response = await fetch(`data?after=${after}`, { cache: "no-store" });
    if (!response.ok) throw new Error(String(response.status));
    const more = await response.json();
    if (more.columns.spans.id.length || more.columns.series.length) {
      add(more.columns);
      filtered(true);
      overview(more.summary);
      charts();
    }
    setTimeout(poll, 1000, more.next);
  } catch {
    $("state").textContent = "The command has exited.";
  }
}

unpacked($("data").textContent).then((found) => {
  titles = found.titles;
  rest = found.rest;
  add(found);
  filtered(false);
  overview(found.summary);
  charts();
  if (location.hash) openAddress();
  else if (list.items.length && innerWidth > 900) {
    // The trace of the slowest call, without an address and without scrolling.
    const whole = callList.items.length ? traces.get(callList.items[0].trace) : list.items[0];
    list.mark(list.items.indexOf(whole));
    showTrace(whole);
    showDetails(firstSpan(whole));
    waterfall.mark(waterfall.items.findIndex((item) => item.span === firstSpan(whole)));
  }
  document.documentElement.dataset.ready = "true";
  if (LIVE) poll(found.next);
});
