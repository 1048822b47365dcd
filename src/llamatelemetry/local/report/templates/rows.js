// A list that creates elements for its visible rows only. The style of the box sets their height.

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
    box.addEventListener("click", (event) => {
      const row = event.target.closest(".row");
      if (row) this.choose(Number(row.dataset.at));
    });
    new ResizeObserver(() => this.fit()).observe(box);
  }

  set(items, keep) {
    const before = keep && this.items[this.at];
    this.items = items;
    this.at = before ? items.indexOf(before) : -1;
    if (!keep) this.box.scrollTop = 0;
    this.fit();
  }

  fit() {
    this.height = parseFloat(getComputedStyle(this.box).getPropertyValue("--row"));
    this.space.style.height = this.items.length * this.height + "px";
    this.paint();
  }

  paint() {
    for (const row of this.box.querySelectorAll(".row")) row.remove();
    const first = Math.max(0, Math.floor(this.box.scrollTop / this.height) - 5);
    const last = Math.min(this.items.length, first + Math.ceil(this.box.clientHeight / this.height) + 10);
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
    row.style.top = at * this.height + "px";
    this.draw(row, this.items[at]);
    return row;
  }

  key(event) {
    const page = Math.max(1, Math.floor(this.box.clientHeight / this.height) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in steps) || !this.items.length) return;
    event.preventDefault();
    this.choose(Math.min(this.items.length - 1, Math.max(0, this.at + steps[event.key])));
  }

  choose(at) {
    this.mark(at);
    this.onSelect(this.items[at]);
  }

  // Selects a row and scrolls to it.
  mark(at) {
    this.at = at;
    const top = at * this.height;
    const { clientHeight, scrollTop } = this.box;
    if (top < scrollTop) this.box.scrollTop = top;
    else if (top + this.height > scrollTop + clientHeight) this.box.scrollTop = top + this.height - clientHeight;
    this.paint();
  }
}
