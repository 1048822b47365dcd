"use strict";
// Drawing functions for all pages. Data is inserted as text only, never as markup.

function shape(tag, attributes, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const tip = document.createElement("div");
tip.className = "tip";
tip.hidden = true;
document.body.append(tip);

function showTip(text, event) {
  tip.textContent = text;
  tip.hidden = !text;
  const { width, height } = tip.getBoundingClientRect();
  tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - width - 8)) + "px";
  tip.style.top = Math.max(4, Math.min(event.clientY + 14, innerHeight - height - 8)) + "px";
}

// One button per series. A click hides or shows the series, a double click hides all others or
// shows all again.
function legendOf(series, changed) {
  const box = document.createElement("div");
  box.className = "legend";
  const buttons = series.map((each) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = each.name;
    button.style.setProperty("--of", each.color);
    button.classList.toggle("dashed", Boolean(each.dash));
    button.addEventListener("click", () => {
      each.off = !each.off;
      update();
    });
    button.addEventListener("dblclick", () => {
      const alone = series.every((other) => (other === each) !== Boolean(other.off));
      for (const other of series) other.off = !alone && other !== each;
      update();
    });
    return button;
  });
  const press = () => buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(!series[at].off)));
  const update = () => {
    press();
    changed();
  };
  press();
  box.append(...buttons);
  return box;
}
