"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const graph = document.getElementById("graph");
const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// Plotly takes some HTML in its texts; entities it shows as the characters they stand for.
const asText = (text) =>
  text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;").replace(/\s+/g, " ");
const short = (text) => (text.length > 28 ? text.slice(0, 27) + "…" : text);
const lines = (all) => all.map(asText).join("<br>");

const MANY = 150; // beyond it names would only cover each other; tooltips still say them
const byId = new Map(data.nodes.map((node) => [node.id, node]));
const heaviest = Math.max(1, ...data.nodes.map((node) => node.weight));

// From the source over the places that it has in between, or one a little beside the straight
// line, so that there and back stay apart. The middle one carries arrow and tooltip.
function wayOf(edge) {
  const from = byId.get(edge.source), to = byId.get(edge.target);
  if (from === to) {
    return { x: [from.x, from.x - 0.12, from.x, from.x + 0.12, from.x], y: [from.y, from.y + 0.3, from.y + 0.42, from.y + 0.3, from.y], at: 2 };
  }
  const dx = to.x - from.x, dy = to.y - from.y;
  const bend = edge.directed ? 0.06 : 0;
  const by = edge.by.length ? edge.by : [[from.x + 0.5 * dx - bend * dy, from.y + 0.5 * dy + bend * dx]];
  const all = [[from.x, from.y], ...by, [to.x, to.y]];
  return { x: all.map((each) => each[0]), y: all.map((each) => each[1]), at: 1 + Math.floor((by.length - 1) / 2) };
}

function edgesOf(kind) {
  const drawn = { x: [], y: [], hovertext: [], size: [], symbol: [] };
  for (const edge of data.edges.filter((each) => each.kind === kind)) {
    const way = wayOf(edge);
    const ends = `${byId.get(edge.source).name} ${edge.directed ? "→" : "–"} ${byId.get(edge.target).name}`;
    way.x.forEach((x, at) => {
      const here = at === way.at;
      drawn.x.push(x);
      drawn.y.push(way.y[at]);
      drawn.size.push(here ? (edge.directed ? 11 : 7) : 0);
      drawn.symbol.push(edge.directed ? "arrow" : "circle");
      drawn.hovertext.push(here ? lines([`${kind}: ${ends}`, ...edge.lines]) : "");
    });
    for (const name of ["x", "y"]) drawn[name].push(null);
    for (const name of ["size", "symbol", "hovertext"]) drawn[name].push(name === "size" ? 0 : "");
  }
  const dash = { "runs on": "dot", PCIe: "dot" }[kind] || "solid";
  const width = kind === "NVLink" ? 3.5 : 1.5;
  return {
    type: "scatter", mode: "lines+markers", name: kind, hoverinfo: "text",
    x: drawn.x, y: drawn.y, hovertext: drawn.hovertext,
    line: { color: kind === "NVLink" ? "#76a800" : color("--edge"), width, dash, shape: "spline" },
    marker: { size: drawn.size, symbol: drawn.symbol, angleref: "previous", color: kind === "NVLink" ? "#76a800" : color("--edge"), opacity: 1 },
  };
}

function nodesOf(kind) {
  const those = data.nodes.filter((node) => node.kind === kind);
  const failed = (node) => node.lines.some((line) => /^errors: [1-9]/.test(line));
  return {
    type: "scatter", mode: data.nodes.length > MANY ? "markers" : "markers+text", name: kind,
    x: those.map((node) => node.x), y: those.map((node) => node.y),
    text: those.map((node) => asText(short(node.name))), textposition: "bottom center",
    hoverinfo: "text", hovertext: those.map((node) => lines([`${kind}: ${node.name}`, ...node.lines])),
    marker: {
      color: data.colors[kind] || color("--edge"), opacity: 1,
      size: those.map((node) => 16 + 16 * Math.sqrt(node.weight / heaviest)),
      line: { width: those.map((node) => (failed(node) ? 3 : 0)), color: color("--bad") },
    },
  };
}

const kinds = (all) => [...new Set(all.map((each) => each.kind))];
const axis = { visible: false, zeroline: false, automargin: false };
const around = (all) => {
  const low = Math.min(...all), high = Math.max(...all);
  const room = Math.max(0.6, 0.15 * (high - low));
  return [low - room, high + room];
};
const whole = data.nodes.length
  ? { "xaxis.range": around(data.nodes.map((node) => node.x)), "yaxis.range": around(data.nodes.map((node) => node.y)) }
  : { "xaxis.range": [-1, 1], "yaxis.range": [-1, 1] };
const BUTTONS = [["zoomIn2d", "zoomOut2d", "resetScale2d", "toImage"]];

Plotly.newPlot(
  graph,
  [...kinds(data.edges).map(edgesOf), ...kinds(data.nodes).map(nodesOf)],
  {
    xaxis: { ...axis, range: whole["xaxis.range"] }, yaxis: { ...axis, range: whole["yaxis.range"] },
    dragmode: "pan", hovermode: "closest", margin: { l: 10, r: 10, t: 10, b: 10 },
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: color("--text"), family: "system-ui, sans-serif", size: 12 },
    legend: { orientation: "h", itemsizing: "constant", x: 0, y: 0, yanchor: "bottom" }, showlegend: data.nodes.length > 0,
    hoverlabel: { align: "left" },
  },
  { scrollZoom: true, displaylogo: false, responsive: true, doubleClick: "reset", modeBarButtons: BUTTONS },
).then(() => {
  document.documentElement.dataset.ready = "true";
});

function moved(name, by, zoom) {
  const [low, high] = graph.layout[name].range;
  const middle = (low + high) / 2 + by * (high - low), half = ((high - low) / 2) * zoom;
  return [middle - half, middle + half];
}

const KEYS = {
  ArrowLeft: [-0.1, 0, 1], ArrowRight: [0.1, 0, 1], ArrowUp: [0, 0.1, 1], ArrowDown: [0, -0.1, 1],
  "+": [0, 0, 0.8], "=": [0, 0, 0.8], "-": [0, 0, 1.25],
};
graph.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "0") Plotly.relayout(graph, whole);
  else if (event.key in KEYS) {
    const [x, y, zoom] = KEYS[event.key];
    Plotly.relayout(graph, { "xaxis.range": moved("xaxis", x, zoom), "yaxis.range": moved("yaxis", y, zoom) });
  } else return;
  event.preventDefault();
});
