/** Making elements. Texts go in as text, never as HTML. */

/** The element of that id. */
export const byId = (id) => document.getElementById(id);

/** `make("button", {class: "quiet", onclick: go}, icon("undo"), "Undo")` */
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

/** One of the drawings that index.html holds. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.append(use);
  return svg;
}

/** A colour [r, g, b] for CSS and canvases. */
export const css = (color, alpha = 1) => `rgb(${color.map(Math.round).join(" ")} / ${alpha})`;

/** Say something to a screen reader. */
export function announce(text) {
  byId("said").textContent = text;
}

/** Scroll as little as is needed to see it. */
export function bringIntoView(element) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  element?.scrollIntoView({ block: "nearest", behavior: calm ? "instant" : "smooth" });
}
