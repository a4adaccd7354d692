"use strict";
// Elements and numbers. Text becomes a text node, always: no string of the data is ever read as HTML.

const byId = (name) => document.getElementById(name);

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) element.append(child);
  return element;
}

function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function makeSvg(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function show(name, ...children) {
  byId(name).replaceChildren(...children.flat(Infinity).filter((child) => child !== null));
}

const { format: whole } = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const counted = (number, one, many) => `${whole(number)} ${number === 1 ? one : many}`;
const share = (part) => (part * 100).toFixed(1) + " %";

function short(number) {
  const size = Math.abs(number);
  if (number !== 0 && (size >= 1e5 || size < 1e-3)) return number.toExponential(1);
  return String(Number(number.toPrecision(size >= 1000 ? 4 : 3)));
}

function table(caption, head, rows) {
  const cell = (tag, scope) => (value) => make(tag, { scope, class: typeof value === "number" ? "number" : null },
    typeof value === "number" ? value.toFixed(4) : value);
  const header = make("tr", {}, head.map((name, place) => make("th", { scope: "col", class: place ? "number" : null }, name)));
  const body = rows.map(([name, ...cells]) => make("tr", {}, cell("th", "row")(name), cells.map(cell("td"))));
  return make("table", {}, make("caption", {}, caption), make("thead", {}, header), make("tbody", {}, body));
}

function words(value, step, most) {
  if (Math.abs(most) >= 1e5 || step < 1e-4) return short(value);
  return value.toFixed(Math.max(0, -Math.floor(Math.log10(step) + 1e-9)));
}

// Round steps between low and high, about `wanted` of them, each with its words.
function ticks(low, high, wanted) {
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9); at <= high / step + 1e-9; at++)
    found.push([at * step, words(at * step, step, high)]);
  return found;
}
