// Making elements, and words for figures. Every text from a model becomes a text node: no markup is built from text.

const byId = (id) => document.getElementById(id);
const words = (name) => name.replaceAll("_", " ");
const signed = (value) => (value < 0 ? "−" : value > 0 ? "+" : "") + Math.abs(value).toFixed(2);
const counted = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
const isolated = (text) => `\u2068${text}\u2069`; // text of another direction then leaves its neighbours alone

function element(name, attributes, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes ?? {})) {
    if (key === "on") for (const [type, listener] of Object.entries(value)) made.addEventListener(type, listener);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null));
  return made;
}

// A background between the two ends of the scale: blue above 0, orange below, stronger towards `largest`. The root
// keeps small values visible beside a large one.
function tint(value, largest) {
  if (!value || !largest) return null;
  const strength = 0.08 + 0.42 * Math.sqrt(Math.min(Math.abs(value) / largest, 1));
  return `rgba(var(${value > 0 ? "--plus" : "--minus"}), ${strength.toFixed(2)})`;
}

const background = (color) => (color === null ? null : `background: ${color}`);

function say(text) {
  byId("status").textContent = text;
}
