// A value as a tree that opens and closes: every key and every text is a text node.

import { copy, h } from "./dom.js";
import { bytes } from "./format.js";

const ITEMS_MAX = 200;
const OPEN_DEPTH = 2;

/** Show a value; `label` names it, and `more` loads the whole of one that was cut. */
export function value(data, label, more) {
  const head = h("div", { class: "value-head" }, h("h3", null, label));
  const box = h("div", { class: "value" }, head);
  if (data === null || data === undefined) {
    box.append(h("p", { class: "none" }, "none"));
    return box;
  }
  if (isMark(data, "$hidden")) {
    box.append(h("p", { class: "none" }, "hidden from your role"));
    return box;
  }
  if (isMark(data, "$cut")) {
    head.append(h("span", { class: "none" }, `${bytes(data.bytes)}, the first part:`));
    if (more) head.append(h("button", { type: "button", class: "small", onclick: more }, "Show all"));
    box.append(h("pre", null, data.text));
    return box;
  }
  head.append(h("button", { type: "button", class: "small plain", onclick: () => copy(asText(data)) }, "Copy"));
  box.append(typeof data === "string" && data.includes("\n") ? h("pre", null, data) : h("div", { class: "tree-value" }, node(data, 0)));
  return box;
}

function isMark(data, name) {
  return typeof data === "object" && data !== null && data[name] === true;
}

const asText = (data) => (typeof data === "string" ? data : JSON.stringify(data, null, 2));

function node(data, depth) {
  if (data === null) return h("span", { class: "v-none" }, "null");
  if (typeof data !== "object") return h("span", { class: `v-${typeof data}` }, typeof data === "string" ? JSON.stringify(data) : String(data));
  if (isMark(data, "$hidden")) return h("span", { class: "none" }, "hidden");
  const isList = Array.isArray(data);
  const entries = Object.entries(data);
  if (!entries.length) return h("span", { class: "v-none" }, isList ? "[]" : "{}");
  const details = h("details", { open: depth < OPEN_DEPTH && entries.length <= 50 }, h("summary", null, isList ? `[${entries.length}]` : `{${entries.length}}`));
  let filled = false;
  const open = () => {
    if (filled || !details.open) return;
    filled = true;
    const list = h("ul", null);
    for (const [key, item] of entries.slice(0, ITEMS_MAX)) {
      list.append(h("li", null, h("span", { class: "v-key" }, key), ": ", node(item, depth + 1)));
    }
    if (entries.length > ITEMS_MAX) list.append(h("li", { class: "none" }, `… ${entries.length - ITEMS_MAX} more; copy shows all`));
    details.append(list);
  };
  details.addEventListener("toggle", open);
  open();
  return details;
}

/** A failure: its kind, its text, its stack, and what caused it. */
export function failure(details, label = "Error") {
  const box = h("div", { class: "failure" }, h("h3", null, label));
  for (let depth = 0, one = details; one && depth < 20; depth += 1, one = one.inner) {
    box.append(
      h("p", null, depth ? h("span", { class: "none" }, "caused by ") : null, h("strong", null, one.error_type), one.message ? ": " : "",
        h("span", { class: "message" }, one.message?.$hidden ? "text hidden from your role" : one.message)),
    );
    if (typeof one.stack_trace === "string" && one.stack_trace) {
      box.append(h("details", { open: depth === 0 }, h("summary", null, "Stack"), h("pre", { tabindex: "0" }, one.stack_trace)));
    }
  }
  return box;
}
