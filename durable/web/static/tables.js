// A table that becomes a list of cards on a narrow screen: each cell knows the name of its column.

import { h } from "./dom.js";
import { count, status, text, time, took } from "./format.js";

/** `columns`: [name, cell of a row]; the first cell of a row is its heading. */
export function table(caption, columns, rows, empty = "Nothing here.") {
  if (!rows.length) return h("p", { class: "none empty" }, empty);
  return h("div", { class: "scroll" }, h("table", null, h("caption", { class: "hidden" }, caption),
    h("thead", null, h("tr", null, columns.map(([name]) => h("th", { scope: "col" }, name)))),
    h("tbody", null, rows.map((row) => h("tr", null, columns.map(([name, cell], at) =>
      h(at ? "td" : "th", { "data-name": name, scope: at ? null : "row" }, cell(row))))))));
}

/** Where an instance is shown. */
export function toInstance(row, label) {
  const kind = row.kind && row.kind !== "o" ? `?kind=${row.kind}` : "";
  return h("a", { href: `#/instances/${row.segment}${kind}`, class: "id" }, label ?? row.instance_id);
}

export function tagsOf(row) {
  return Object.entries(row.tags ?? {}).map(([name, value]) =>
    h("a", { class: "tag", href: `#/instances?${new URLSearchParams({ tag: `${name}=${value}` })}` }, `${name}=${value}`));
}

/** The columns of a listing of instances. */
export const INSTANCE_COLUMNS = [
  ["Status", (row) => status(row.status)],
  ["Instance", (row) => toInstance(row)],
  ["Orchestrator", (row) => [row.name, row.version ? h("small", null, ` v${row.version}`) : null]],
  ["Created", (row) => time(row.created_at, "age")],
  ["Took", (row) => took(row.created_at, row.completed_at)],
  ["", (row) => [tagsOf(row), why(row)]],
];

export function why(row) {
  const said = row.stall_reason ?? row.failure_details?.message;
  return said ? h("span", { class: "why" }, text(said)) : null;
}

export function tile(label, number, kind, href) {
  return h("a", { class: "tile", "data-status": kind, href }, h("span", { class: "number" }, count(number)), h("span", null, label));
}
