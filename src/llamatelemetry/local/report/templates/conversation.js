// The messages of a call or tool, laid out: roles, texts, tool calls and their results.

const CONTENT = ["gen_ai.system_instructions", "gen_ai.input.messages", "gen_ai.output.messages", "gen_ai.tool.definitions"];
const TOOL_CONTENT = ["gen_ai.tool.call.arguments", "gen_ai.tool.call.result"];
const LONG = 900;

const parsed = (value) => {
  if (typeof value !== "string") return value;
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
};

// Text that is folded if it is long.
function text(content, className) {
  const box = element("pre", className || "", content);
  if (content.length <= LONG && content.split("\n").length <= 14) return [box];
  box.classList.add("fold");
  const more = element("button", "more", `Show all ${grouped(content.length)} characters`);
  more.type = "button";
  more.addEventListener("click", () => {
    const folded = box.classList.toggle("fold");
    more.textContent = folded ? `Show all ${grouped(content.length)} characters` : "Show less";
  });
  return [box, more];
}

// Arguments and results: one line for each field, or the text.
function data(value) {
  const found = parsed(value);
  if (found === null || typeof found !== "object") return text(String(found ?? ""));
  if (Array.isArray(found) || !Object.keys(found).length) return text(JSON.stringify(found, null, 2), "data");
  const list = element("dl");
  for (const [key, each] of Object.entries(found)) {
    const cell = element("dd");
    cell.append(...text(typeof each === "object" ? JSON.stringify(each, null, 2) : String(each)));
    list.append(element("dt", "", key), cell);
  }
  return [list];
}

function inner(title, children) {
  const box = element("div", "inner");
  box.append(element("b", "", title), ...children);
  return box;
}

function partBox(part, toolNames) {
  if (part === null || typeof part !== "object") return text(String(part));
  if (part.type === "text" || part.type === undefined) return text(typeof part.content === "string" ? part.content : JSON.stringify(part, null, 2));
  if (part.type === "tool_call") {
    if (part.id) toolNames.set(part.id, part.name);
    return [inner(`Tool call: ${part.name || "?"}`, data(part.arguments))];
  }
  if (part.type === "tool_call_response") {
    const name = toolNames.get(part.id) || part.id;
    return [inner(`Tool result${name ? `: ${name}` : ""}`, data(part.response ?? part.result ?? part.content))];
  }
  if (typeof part.content === "string") return [inner(part.type, text(part.content))];
  return [inner(String(part.type), text(JSON.stringify(part, null, 2), "data"))];
}

function messageBox(message, toolNames, isOutput) {
  const role = message && typeof message.role === "string" ? message.role : "unknown role";
  const box = element("div", `message ${["system", "user", "assistant", "tool"].includes(role) ? role : ""}`);
  const reason = message && message.finish_reason ? ` · finish reason: ${message.finish_reason}` : "";
  box.append(element("b", "", `${role}${isOutput ? " · answer" : ""}${reason}`));
  const parts = [message && (message.parts ?? message.content)].flat().filter((part) => part !== undefined && part !== null);
  for (const part of parts) box.append(...partBox(part, toolNames));
  return box;
}

function messagesOf(value) {
  const found = parsed(value);
  if (typeof found === "string") return [{ role: "unknown role", parts: [{ type: "text", content: found }] }];
  return [found].flat();
}

function definitions(value) {
  const tools = [parsed(value)].flat();
  const names = tools.map((tool) => (tool && (tool.name || (tool.function && tool.function.name))) || "?");
  const box = element("details", "inner");
  box.append(element("summary", "", `${tools.length} tool${tools.length === 1 ? "" : "s"} offered: ${names.join(", ")}`));
  box.append(...text(JSON.stringify(tools, null, 2), "data"));
  return box;
}

// Returns the boxes of the conversation; none if no content was captured.
function conversation(attributes) {
  const [system, input, output, tools] = CONTENT.map((name) => attributes.get(name));
  const toolNames = new Map();
  const found = [];
  if (tools !== undefined) found.push(definitions(tools));
  if (system !== undefined) found.push(messageBox({ role: "system", parts: [parsed(system)].flat() }, toolNames, false));
  if (input !== undefined) found.push(...messagesOf(input).map((message) => messageBox(message, toolNames, false)));
  if (output !== undefined) found.push(...messagesOf(output).map((message) => messageBox(message, toolNames, true)));
  TOOL_CONTENT.forEach((name, at) => {
    if (attributes.has(name)) found.push(inner(at ? "Result" : "Arguments", data(attributes.get(name))));
  });
  return found;
}
