/** Helpers for the document. Texts are inserted as text, never as HTML. */

/** Return the element with this id. */
export const byId = (id) => document.getElementById(id);

/** Create an element: `make("button", {class: "quiet", onclick: go}, icon("undo"), "Undo")` */
export function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value != null) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child != null && child !== false));
  return element;
}

/** Create an icon from a symbol of index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** Format a colour [r, g, b] for CSS and canvases. */
export const cssColor = (color, alpha = 1) => `rgb(${color.map(Math.round).join(" ")} / ${alpha})`;

/** Announce a text to screen readers. */
export function announce(text) {
  byId("announcement").textContent = text;
}

/** Scroll just enough to bring an element into view. */
export function bringIntoView(element) {
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element?.scrollIntoView({ block: "nearest", behavior: reduced ? "instant" : "smooth" });
}
