const data = JSON.parse(document.getElementById("data").textContent);
const graph = document.getElementById("graph");

const oneLine = (text) => text.replace(/\s+/g, " ");
const short = (text) => (text.length > 28 ? text.slice(0, 27) + "…" : text);

const MANY = 150; // beyond it names would only cover each other; tooltips still say them
const byId = new Map(data.nodes.map((node) => [node.id, node]));
const heaviest = Math.max(1, ...data.nodes.map((node) => node.weight));

// From the source over the places that it has in between, or one a little beside the straight
// line, so that there and back stay apart. The middle one carries the arrow.
function wayOf(edge) {
  const from = byId.get(edge.source), to = byId.get(edge.target);
  if (from === to) {
    return [[from.x, from.y], [from.x - 0.12, from.y + 0.3], [from.x, from.y + 0.42], [from.x + 0.12, from.y + 0.3], [from.x, from.y]];
  }
  const dx = to.x - from.x, dy = to.y - from.y;
  const bend = edge.directed ? 0.06 : 0;
  const by = edge.by.length ? edge.by : [[from.x + 0.5 * dx - bend * dy, from.y + 0.5 * dy + bend * dx]];
  return [[from.x, from.y], ...by, [to.x, to.y]];
}

// --- shapes, each made once and moved with the view -----------------------------------

const svg = shape("svg", { width: "100%", height: "100%", "font-family": "system-ui, sans-serif", "font-size": 12 });

function hovered(group, text) {
  group.addEventListener("pointermove", (event) => showTip(drag ? "" : text, event));
  group.addEventListener("pointerleave", (event) => showTip("", event));
  return group;
}

function edgeShape(edge) {
  const link = edge.kind === "NVLink";
  const color = link ? "#76a800" : "var(--edge)";
  const dash = ["runs on", "PCIe"].includes(edge.kind) ? "2 4" : "none";
  const line = shape("path", { fill: "none", style: `stroke: ${color}`, "stroke-width": link ? 3.5 : 1.5, "stroke-dasharray": dash });
  const wide = shape("path", { fill: "none", stroke: "transparent", "stroke-width": 12 });
  const head = shape("path", { d: edge.directed ? "M6 0L-5 -5V5Z" : "M3.5 0a3.5 3.5 0 1 0 -7 0a3.5 3.5 0 1 0 7 0", style: `fill: ${color}` });
  const ends = `${byId.get(edge.source).name} ${edge.directed ? "→" : "–"} ${byId.get(edge.target).name}`;
  const group = hovered(shape("g", { class: "edge" }, line, wide, head), [`${edge.kind}: ${ends}`, ...edge.lines].map(oneLine).join("\n"));
  const way = wayOf(edge);
  const middle = 1 + Math.floor((way.length - 3) / 2);
  return { kind: edge.kind, color, group, place: () => {
    const points = way.map(pixels);
    const curve = curveThrough(points);
    line.setAttribute("d", curve);
    wide.setAttribute("d", curve);
    const [before, after] = [points[middle - 1], points[middle + 1]];
    const turn = (Math.atan2(after[1] - before[1], after[0] - before[0]) * 180) / Math.PI;
    head.setAttribute("transform", `translate(${points[middle]}) rotate(${turn})`);
  } };
}

function nodeShape(node) {
  const radius = 8 + 8 * Math.sqrt(node.weight / heaviest);
  const color = data.colors[node.kind] || "var(--edge)";
  const failed = node.lines.some((line) => /^errors: [1-9]/.test(line));
  const group = shape("g", { class: "node" }, shape("circle", { r: radius, style: `fill: ${color}; stroke: var(--bad)`, "stroke-width": failed ? 3 : 0 }));
  if (data.nodes.length <= MANY) {
    group.append(shape("text", { y: radius + 13, "text-anchor": "middle", style: "fill: var(--text)" }, oneLine(short(node.name))));
  }
  hovered(group, [`${node.kind}: ${node.name}`, ...node.lines].map(oneLine).join("\n"));
  return { kind: node.kind, color, group, place: () => group.setAttribute("transform", `translate(${pixels([node.x, node.y])})`) };
}

// A smooth line through all points (Catmull and Rom's, as Bézier curves).
function curveThrough(points) {
  let path = `M${points[0]}`;
  for (let at = 0; at + 1 < points.length; at++) {
    const [before, from, to, after] = [points[at - 1] || points[at], points[at], points[at + 1], points[at + 2] || points[at + 1]];
    const near = (point, one, other) => [0, 1].map((axis) => point[axis] + (other[axis] - one[axis]) / 6);
    path += `C${near(from, before, to)} ${near(to, after, from)} ${to}`;
  }
  return path;
}

// --- what of it is seen ----------------------------------------------------------------

const around = (all) => {
  if (!all.length) return [-1, 1];
  const low = Math.min(...all), high = Math.max(...all);
  const room = Math.max(0.6, 0.15 * (high - low));
  return [low - room, high + room];
};
const whole = { x: around(data.nodes.map((node) => node.x)), y: around(data.nodes.map((node) => node.y)) };
let view = whole;
let drag = null;

function pixels([x, y]) {
  const part = (value, [low, high]) => (value - low) / (high - low);
  return [part(x, view.x) * graph.clientWidth, (1 - part(y, view.y)) * graph.clientHeight];
}

// By shares of what is seen; the point `at`, as a share of the width and height, stays in place.
function move(x, y, zoom, at = [0.5, 0.5]) {
  const moved = ([low, high], by, share) => {
    const size = high - low, fixed = low + share * size + by * size;
    return [fixed - share * size * zoom, fixed + (1 - share) * size * zoom];
  };
  show({ x: moved(view.x, x, at[0]), y: moved(view.y, y, 1 - at[1]) });
}

function show(wanted) {
  view = wanted;
  for (const each of shapes) each.place();
}

const shapes = [...data.edges.map(edgeShape), ...data.nodes.map(nodeShape)];
svg.append(...shapes.map((each) => each.group));

const kinds = [...new Map(shapes.map(({ kind, color }) => [kind, { name: kind, color }])).values()];
const legend = legendOf(kinds, () => {
  const off = new Set(kinds.filter((each) => each.off).map((each) => each.name));
  for (const { kind, group } of shapes) group.style.display = off.has(kind) ? "none" : "";
});

function save() {
  const copy = svg.cloneNode(true);
  const style = getComputedStyle(document.documentElement);
  for (const name of ["--edge", "--text", "--bad"]) copy.style.setProperty(name, style.getPropertyValue(name));
  copy.style.background = style.getPropertyValue("--soft");
  copy.setAttribute("viewBox", `0 0 ${graph.clientWidth} ${graph.clientHeight}`);
  const link = document.createElement("a");
  link.download = "graph.svg";
  link.href = URL.createObjectURL(new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" }));
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const tools = document.createElement("div");
tools.className = "tools";
const BUTTONS = { "+": ["Zoom in", () => move(0, 0, 0.8)], "−": ["Zoom out", () => move(0, 0, 1.25)], "↺": ["Show all", () => show(whole)], "⤓": ["Save as SVG", save] };
for (const [text, [label, act]] of Object.entries(BUTTONS)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = text;
  button.title = label;
  button.setAttribute("aria-label", label);
  button.addEventListener("click", act);
  tools.append(button);
}
graph.append(svg, tools, legend);
show(whole);
new ResizeObserver(() => show(view)).observe(graph);

const KEYS = {
  ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, 0.1, 1], ArrowDown: [0, -0.1, 1],
  "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25],
};
graph.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "0") show(whole);
  else if (event.key in KEYS) move(...KEYS[event.key]);
  else return;
  event.preventDefault();
});
svg.addEventListener("wheel", (event) => {
  event.preventDefault();
  const box = svg.getBoundingClientRect();
  move(0, 0, 1.0015 ** event.deltaY, [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height]);
}, { passive: false });
svg.addEventListener("pointerdown", (event) => {
  drag = event;
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (!drag) return;
  move((drag.clientX - event.clientX) / graph.clientWidth, (event.clientY - drag.clientY) / graph.clientHeight, 1);
  drag = event;
});
for (const end of ["pointerup", "pointercancel"]) svg.addEventListener(end, () => (drag = null));
svg.addEventListener("dblclick", () => show(whole));
document.documentElement.dataset.ready = "true";
