// One span in detail: conversation, figures, parts of its time, attributes, events, links, resource.

const seconds = (value) => milliseconds(value * 1e6);
const inMs = (value) => milliseconds(value * 1000);
const FIGURES = [
  ["gen_ai.ttft_ms", "Time to first token", inMs],
  ["gen_ai.tpot_ms", "Time per output token", inMs],
  ["gen_ai.tpot_ms", "Output tokens/s", (value) => rounded(1000 / value)],
  ["gen_ai.usage.input_tokens", "Input tokens", grouped],
  ["gen_ai.usage.cache_read.input_tokens", "of them cached", grouped],
  ["gen_ai.usage.output_tokens", "Output tokens", grouped],
  ["gen_ai.usage.reasoning.output_tokens", "of them reasoning", grouped],
  ["llamatelemetry.queue_duration", "Queue", seconds],
  ["gen_ai.prefill_ms", "Prefill", inMs],
  ["gen_ai.decode_ms", "Decode", inMs],
  ["llamatelemetry.gpu.energy", "GPU energy", (value) => `${rounded(value)} J`],
  ["gen_ai.usage.cost", "Cost", (value) => rounded(value)],
  ["http.request.resend_count", "Retries", grouped],
];
const FACTS = [
  ["gen_ai.response.model", ""], ["gen_ai.request.model", ""], ["gen_ai.provider.name", ""], ["server.address", "server.port"],
  ["gen_ai.tool.name", ""], ["gen_ai.agent.name", ""], ["gen_ai.conversation.id", ""],
];

function factsOf(attributes) {
  const found = FACTS.filter(([key]) => attributes.has(key)).map(([key, more]) => [attributes.get(key), attributes.get(more)].filter((each) => each !== undefined).map(shownAs).join(":"));
  const reasons = attributes.get("gen_ai.response.finish_reasons");
  if (reasons !== undefined) found.push(`finish reason: ${[reasons].flat().map(shownAs).join(", ")}`);
  return [...new Set(found)];
}

function figureList(span, attributes) {
  const list = element("ul", "figures");
  const item = (name, value) => {
    const box = element("li");
    box.append(element("b", "", value), element("span", "", name));
    list.append(box);
  };
  item("Duration", milliseconds(span.duration));
  for (const [key, name, format] of FIGURES) {
    const value = attributes.get(key);
    if (typeof value === "number" && Number.isFinite(value)) item(name, format(value));
  }
  return list;
}

// The parts of a call as a bar, and as a list with what each was read from.
function partList(span) {
  const parts = span.parts();
  if (!parts.length || (parts.length === 1 && parts[0].name === "unexplained")) return [];
  const list = element("dl", "evidence");
  for (const { name, us, evidence } of parts) {
    const term = element("dt");
    const item = element("span", "parts");
    item.append(swatch(name), element("span", "", titleOf(name)));
    term.append(item);
    list.append(term, element("dd", "", milliseconds(us)), element("dd", "", evidence || percent(us, span.duration)));
  }
  const found = [element("h3", "", "Where the time went"), timeBar(element("div", "time"), parts, 1), list];
  if (span.call.why) found.splice(1, 0, element("p", "note", span.call.why));
  return found;
}

function pairList(pairs) {
  const list = element("dl");
  for (const [key, value] of pairs) list.append(element("dt", "", key), element("dd", "", shownAs(value)));
  return list;
}

function attributeList(pairs) {
  if (!pairs.length) return [];
  const search = element("input");
  search.type = "search";
  search.placeholder = `Search ${pairs.length} attributes`;
  search.setAttribute("aria-label", "Search the attributes");
  const sorted = pairs.sort(([a], [b]) => (a < b ? -1 : 1));
  let list = pairList(sorted);
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = sorted.filter(([key, value]) => words.every((word) => `${key}\n${shownAs(value)}`.toLowerCase().includes(word)));
    const next = pairList(found);
    list.replaceWith(next);
    list = next;
  });
  const tools = element("div", "tools");
  tools.append(element("h3", "", "Attributes"), search);
  return [tools, list];
}

function linkList(links) {
  return links.map(({ trace, id, attributes }) => {
    const box = element("p");
    const known = byId.has(trace + id);
    const target = element(known ? "a" : "span", "", known ? byId.get(trace + id).name : `span ${id} of trace ${trace}, not in this recording`);
    if (known) target.href = `#${trace}/${id}`;
    box.append(target);
    if (attributes.length) box.append(pairList(attributes));
    return box;
  });
}

function showDetails(span) {
  const attributes = new Map(span.attributes());
  const lead = element("div", "lead");
  lead.append(element("b", span.failed ? "failed" : "", span.name), element("span", "note", factsOf(attributes).join(" · ")));
  const found = [lead];
  if (span.failed) found.push(element("p", "error failed", [span.call && span.call.error, span.message].filter(Boolean).join(": ") || "failed"));
  if (span.brief) found.push(element("p", "note", `This page has only the figures of this call. For its evidence: llamatelemetry why --call ${span.id}`));
  const messages = conversation(attributes);
  if (messages.length) found.push(element("h3", "", "Conversation"), ...messages);
  found.push(figureList(span, attributes), ...(span.call ? partList(span) : []));
  const isShown = ([key]) => !CONTENT.includes(key) && !TOOL_CONTENT.includes(key);
  found.push(...attributeList(span.attributes().filter(isShown)));
  const events = span.events();
  if (events.length) found.push(element("h3", "", "Events"));
  for (const event of events) {
    found.push(inner(`${event.name} after ${milliseconds(event.time - span.start)}`, event.attributes.flatMap(([key, value]) => [element("span", "note", key), ...text(shownAs(value))])));
  }
  const links = span.links();
  if (links.length) found.push(element("h3", "", "Links"), ...linkList(links));
  const resource = element("details");
  resource.append(element("summary", "", `Resource: ${serviceOf(span) || "unnamed service"}`), pairList([["span id", span.id], ["trace id", span.trace], ["scope", span.scope], ...span.resource()]));
  found.push(resource);
  $("details").replaceChildren(...found);
}
