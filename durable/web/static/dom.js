// Elements are made here and nowhere else. Whatever is shown becomes a text node: nothing is ever parsed as markup, and the page's
// policy (trusted types, no inline script) would refuse it.

const SVG = "http://www.w3.org/2000/svg";
const LINK = /^(#|api\/|\.\/)/;

/** Make an element: properties beginning with `on` are listeners, `class` and others attributes, null ones left out. */
export function h(tag, properties, ...children) {
  return filled(document.createElement(tag), properties, children);
}

/** Make an element of a drawing. */
export function s(tag, properties, ...children) {
  return filled(document.createElementNS(SVG, tag), properties, children);
}

function filled(element, properties, children) {
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) {
      if (typeof value !== "function") throw new TypeError(`${name} is no function`);
      element.addEventListener(name.slice(2), value);
    } else if (name === "href" && !LINK.test(value)) {
      throw new TypeError("a link leads to a page of this site");
    } else if (name === "value" || name === "checked" || name === "disabled" || name === "selected" || name === "open") {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  const found = [];
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    found.push(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return found;
}

/** Put these in the place of all that an element holds. */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

let said = 0;

/** Tell people something that they have not asked for just now. */
export function notice(text, kind = "done") {
  const box = h("div", { class: `notice ${kind}`, id: `notice-${++said}` }, h("span", null, text));
  box.append(h("button", { type: "button", class: "plain", "aria-label": "Dismiss", onclick: () => box.remove() }, "×"));
  document.getElementById("notices").append(box);
  setTimeout(() => box.remove(), kind === "error" ? 12000 : 5000);
}

/** Copy text, as far as the browser lets one. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    notice("Copied.");
  } catch {
    notice("The browser does not let this page copy.", "error");
  }
}

/** Call a function at most once in a frame. */
export function perFrame(draw) {
  let asked = 0;
  return () => {
    if (!asked) asked = requestAnimationFrame(() => { asked = 0; draw(); });
  };
}
