// Charts as SVG. Dragging selects the part to show, a double click shows everything again.
//
// plot: { title, x: axis, y: [axis, ...], series: [...], legend: whether to draw a legend }
// axis: { title, type: "log" or "time" (milliseconds since the epoch), low, high: fixed ends,
//   reversed: whether the lowest value is at the top, right: whether the axis is on the right,
//   from, to: the fractions of the plot's height between which the axis lies,
//   bare: whether the axis has no ticks }
// series: { name, color, kind: "line", "step", "segments", "bars", "dots" or "crosses", x, y,
//   x2, y2: the other ends of segments and bars, axis: index of the y axis, width, dash,
//   text: labels next to the points, tips: (index) => text, off: whether the series is hidden,
//   open: (index) => what a click on a mark does }
// zoomed: (range of x or null) => called after the shown part has changed, to draw it more exactly

const NEAR = 25; // pixels within which the pointer finds a mark
const STEPS_MS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500], ...[1, 2, 5, 10, 15, 30].map((s) => s * 1000),
  ...[1, 2, 5, 10, 15, 30, 60, 180, 360, 720, 1440].map((min) => min * 60000),
];

const plain = (value) => String(Number(value.toPrecision(6)));
const clock = (ms, precise) => {
  const options = precise ? { fractionalSecondDigits: 3 } : {};
  return new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false, ...options });
};

function multiples(step, low, high) {
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high * (1 + 1e-12) + step * 1e-9 && found.length < 100; at++) found.push(at * step);
  return found;
}

function ticksOf(axis, low, high, room) {
  const raw = (high - low) / Math.max(2, room);
  if (axis.type === "time") {
    const step = STEPS_MS.find((each) => each >= raw) || Math.ceil(raw / 86400000) * 86400000;
    const named = (at) => (step < 86400000 ? clock(at, step < 1000) : new Date(at).toLocaleDateString());
    return multiples(step, low, high).map((at) => [at, named(at)]);
  }
  if (axis.type === "log") {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++) {
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    }
    const within = found.filter((at) => at >= low && at <= high);
    if (within.length > 2) return within.map((at) => [at, plain(at)]);
  }
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((digit) => digit * power >= raw * 0.999) * power;
  return multiples(step, low, high).map((at) => [at, plain(at)]);
}

function rangeOf(axis, series, names) {
  let low = axis.low ?? Infinity;
  let high = axis.high ?? -Infinity;
  for (const each of series) {
    for (const name of names) {
      for (const value of each[name] || []) {
        if (value === null || (axis.type === "log" && value <= 0)) continue;
        if (axis.low === undefined && value < low) low = value;
        if (axis.high === undefined && value > high) high = value;
      }
    }
  }
  if (low > high) return axis.type === "log" ? [1, 10] : [0, 1];
  if (low === high) return axis.type === "log" ? [low / 2, high * 2] : [low - (axis.low === undefined ? 0.5 : 0), high + 0.5];
  const room = axis.type === "log" ? (high / low) ** 0.03 : (high - low) * 0.04;
  const wider = axis.type === "log" ? [low / room, high * room] : [low - room, high + room];
  return [axis.low === undefined ? wider[0] : low, axis.high === undefined ? wider[1] : high];
}

// Returns a function from values to pixels; its method `back` is the inverse.
function scaleOf(axis, [low, high], from, to) {
  const [there, back] = axis.type === "log" ? [Math.log10, (at) => 10 ** at] : [Number, Number];
  const start = there(low);
  const unit = (to - from) / (there(high) - start);
  const scale = (value) => from + (there(axis.type === "log" ? Math.max(value, low / 1e6) : value) - start) * unit;
  scale.back = (pixel) => back(start + (pixel - from) / unit);
  scale.range = [low, high];
  return scale;
}

const PATHS = {
  line: ([x, , y], start) => `${start ? "M" : "L"}${x} ${y}`,
  step: ([x, , y], start) => (start ? `M${x} ${y}` : `H${x}V${y}`),
  segments: ([x, x2, y]) => `M${x} ${y}H${x2}`,
  bars: ([x, x2, y, y2]) => `M${x} ${y}H${x2}V${y2}H${x}Z`,
  dots: ([x, , y]) => `M${x} ${y}h0`,
  crosses: ([x, , y]) => `M${x - 4} ${y - 4}l8 8m-8 0l8 -8`,
};

class Chart {
  constructor(box) {
    this.box = box;
    this.zoom = null;
    this.hidden = new Map(); // by series name, so that updates of the data keep it
    this.svg = shape("svg", { role: "img" });
    this.svg.addEventListener("pointermove", (event) => this.moved(event));
    this.svg.addEventListener("pointerleave", (event) => this.point(null, event));
    this.svg.addEventListener("pointerdown", (event) => this.pressed(event));
    this.svg.addEventListener("pointerup", (event) => this.released(event));
    this.svg.addEventListener("dblclick", () => {
      this.show(null);
    });
    new ResizeObserver(() => this.draw()).observe(box);
  }

  set(plot) {
    this.plot = plot;
    for (const each of plot.series) each.off = this.hidden.get(each.name) ?? each.off;
    const legend = plot.legend ? [legendOf(plot.series, () => {
      for (const each of plot.series) this.hidden.set(each.name, each.off);
      this.draw();
    })] : [];
    this.box.replaceChildren(...legend, this.svg);
    this.svg.setAttribute("aria-label", plot.title);
    this.draw();
  }

  draw() {
    const { plot, svg } = this;
    const legend = plot.legend ? this.box.firstChild.offsetHeight : 0;
    const [width, height] = [this.box.clientWidth, this.box.clientHeight - legend];
    if (width < 150 || height < 100) return;
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.shown = plot.series.filter((each) => !each.off);
    const right = plot.y.some((axis) => axis.right) ? 55 : 15;
    const [left, top, bottom] = [55, plot.title ? 26 : 8, height - 38];
    this.x = scaleOf(plot.x, (this.zoom && this.zoom.x) || rangeOf(plot.x, this.shown, ["x", "x2"]), 0, width - left - right);
    this.panels = plot.y.map((axis, at) => this.panel(axis, at, left, top, width - left - right, bottom - top));
    const title = plot.title ? [shape("text", { x: width / 2, y: 15, "text-anchor": "middle", style: "font-size: 13px" }, plot.title)] : [];
    svg.replaceChildren(...title, ...this.xAxis(left, bottom, width - left - right), ...this.panels.flatMap((each) => [...each.axis, each.inner]));
  }

  panel(axis, at, left, top, width, full) {
    const [from, height] = [top + full * (axis.from ?? 0), full * ((axis.to ?? 1) - (axis.from ?? 0))];
    const series = this.shown.filter((each) => (each.axis || 0) === at);
    const range = (this.zoom && this.zoom.y[at]) || rangeOf(axis, series, ["y", "y2"]);
    const y = scaleOf(axis, range, ...(axis.reversed ? [0, height] : [height, 0]));
    // A nested svg clips the series.
    const inner = shape("svg", { x: left, y: from, width, height, fill: "none" });
    for (const [value] of ticksOf(this.plot.x, ...this.x.range, width / 75)) {
      inner.append(shape("path", { class: "grid", d: `M${this.x(value)} 0v${height}` }));
    }
    for (const each of series) this.drawSeries(inner, each, y);
    const side = axis.right ? left + width : left;
    const outwards = axis.right ? 1 : -1;
    const drawn = [];
    for (const [value, text] of axis.bare ? [] : ticksOf(axis, ...range, height / 32)) {
      const line = from + y(value);
      if (!axis.right) drawn.push(shape("path", { class: "grid", d: `M${left} ${line}h${width}` }));
      drawn.push(shape("text", { x: side + 6 * outwards, y: line + 4, "text-anchor": axis.right ? "start" : "end" }, text));
    }
    const middle = [side + 44 * outwards, from + height / 2];
    drawn.push(shape("text", { transform: `translate(${middle}) rotate(-90)`, "text-anchor": "middle" }, axis.title));
    return { axis: drawn, inner, y, series, at, left, from, height };
  }

  xAxis(left, bottom, width) {
    const { x } = this.plot;
    const drawn = ticksOf(x, ...this.x.range, width / 75).map(([value, text]) =>
      shape("text", { x: left + this.x(value), y: bottom + 16, "text-anchor": "middle" }, text),
    );
    return [...drawn, shape("text", { x: left + width / 2, y: bottom + 32, "text-anchor": "middle" }, x.title)];
  }

  // Returns the pixels of a point, segment or bar: x, x2, y and y2.
  mark(each, at, y) {
    const end = (name, first) => (each[name] ? each[name][at] : each[first][at]);
    return [this.x(each.x[at]), this.x(end("x2", "x")), y(each.y[at]), y(end("y2", "y"))];
  }

  drawSeries(inner, each, y) {
    let path = "";
    let start = true;
    for (let at = 0; at < each.x.length; at++) {
      const here = each.y[at] !== null;
      if (here) path += PATHS[each.kind](this.mark(each, at, y).map((pixel) => Math.round(pixel * 10) / 10), start);
      start = !here;
    }
    // The thin outline keeps bars visible that are narrower than a pixel.
    const paint = each.kind === "bars" ? `fill: ${each.color}; stroke: ${each.color}; stroke-width: .5` : `stroke: ${each.color}; stroke-width: ${each.width || 1.5}; stroke-linecap: ${["dots", "segments"].includes(each.kind) ? "round" : "butt"}`;
    inner.append(shape("path", { class: "series", d: path, style: paint, "stroke-dasharray": each.dash || "none" }));
    (each.text || []).forEach((text, at) => {
      const [x, , top] = this.mark(each, at, y);
      inner.append(shape("circle", { cx: x, cy: top, r: 3.5, style: `fill: ${each.color}` }));
      inner.append(shape("text", { x, y: top - 7, "text-anchor": "middle" }, text));
    });
  }

  place(event) {
    const box = this.svg.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  moved(event) {
    const [x, y] = this.place(event);
    if (this.drag) {
      const { panel, x: from } = this.drag;
      this.frame.setAttribute("d", `M${Math.min(from, x) - panel.left} 0h${Math.abs(x - from)}v${panel.height}H${Math.min(from, x) - panel.left}Z`);
      return;
    }
    let best = null;
    for (const panel of this.panels) {
      for (const each of panel.series.filter((one) => one.tips)) {
        for (let at = 0; at < each.x.length; at++) {
          if (each.y[at] === null) continue;
          const [x1, x2, y1, y2] = this.mark(each, at, panel.y);
          const [px, py] = [x - panel.left, y - panel.from];
          const away = Math.hypot(Math.max(x1 - px, 0, px - x2), Math.max(Math.min(y1, y2) - py, 0, py - Math.max(y1, y2)));
          if (away < (best ? best.away : NEAR)) best = { away, panel, each, at };
        }
      }
    }
    this.svg.style.cursor = best && best.each.open ? "pointer" : "";
    this.point(best, event);
  }

  point(best, event) {
    this.found = best;
    if (this.marked) this.marked.remove();
    showTip(best ? best.each.tips(best.at) : "", event);
    if (!best) return;
    const [x1, x2, y1, y2] = this.mark(best.each, best.at, best.panel.y);
    this.marked = shape("rect", { class: "marked", x: x1 - 3, y: Math.min(y1, y2) - 3, width: x2 - x1 + 6, height: Math.abs(y2 - y1) + 6, rx: 3 });
    best.panel.inner.append(this.marked);
  }

  pressed(event) {
    const [x, y] = this.place(event);
    const panel = this.panels.find((each) => y >= each.from && y <= each.from + each.height);
    if (!panel || event.button) return;
    this.drag = { panel, x, y, found: this.found };
    this.point(null, event);
    this.frame = shape("path", { class: "zoomed" });
    panel.inner.append(this.frame);
    this.svg.setPointerCapture(event.pointerId);
  }

  released(event) {
    if (!this.drag) return;
    const [[x, y], { panel, ...from }] = [this.place(event), this.drag];
    this.drag = null;
    this.frame.remove();
    if (Math.abs(x - from.x) < 6) {
      if (from.found && from.found.each.open) from.found.each.open(from.found.at);
      return;
    }
    const between = (scale, one, other) => [scale.back(one), scale.back(other)].sort((a, b) => a - b);
    const zoom = { x: between(this.x, from.x - panel.left, x - panel.left), y: { ...(this.zoom ? this.zoom.y : {}) } };
    if (Math.abs(y - from.y) > 30) {
      for (const each of this.panels.filter((other) => other.from === panel.from)) {
        zoom.y[each.at] = between(each.y, from.y - each.from, y - each.from);
      }
    }
    this.show(zoom);
  }

  show(zoom) {
    this.zoom = zoom;
    if (this.plot.zoomed) this.plot.zoomed(zoom && zoom.x);
    else this.draw();
  }
}

const drawnCharts = new Map();
function drawChart(id, plot) {
  if (!drawnCharts.has(id)) drawnCharts.set(id, new Chart(document.getElementById(id)));
  drawnCharts.get(id).set(plot);
}
