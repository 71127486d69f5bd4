// Entities: state with a name.

import { get, may, post } from "./api.js";
import { ask } from "./dialogs.js";
import { fill, h, notice } from "./dom.js";
import { text, time } from "./format.js";
import { table } from "./tables.js";
import { value } from "./values.js";

export async function entitiesPage(context) {
  const { query } = context;
  const name = h("input", { id: "name", value: query.get("name") ?? "", autocomplete: "off" });
  const prefix = h("input", { id: "search", type: "search", value: query.get("prefix") ?? "", autocomplete: "off" });
  const form = h("form", { class: "filters card", role: "search" }, h("div", { class: "row" },
    h("div", { class: "field" }, h("label", { for: "name" }, "Class"), name),
    h("div", { class: "field" }, h("label", { for: "search" }, "Key begins with"), prefix)),
  h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Search")));
  const results = h("div", { "aria-live": "polite" });
  const pages = [null];
  const load = async () => {
    const found = await get("entities", { name: name.value, prefix: prefix.value, page: pages.at(-1) });
    if (!context.isCurrent()) return;
    fill(results, table("Entities", [
      ["Entity", (one) => h("a", { href: `#/instances/${one.segment}?kind=e`, class: "id" }, one.key)],
      ["Class", (one) => one.name],
      ["State", (one) => h("details", null, h("summary", null, short(one.state)), value(one.state, "State"))],
      ["Changed", (one) => time(one.last_updated_at, "age")],
      ["", (one) => [one.stall_reason ? h("span", { class: "why" }, text(one.stall_reason)) : null, may("OPERATOR") ? h("button", { type: "button", class: "small", onclick: () => signal(one, load) }, "Signal…") : null]],
    ], found.entities, "No entity matches."),
    h("div", { class: "buttons pager" },
      h("button", { type: "button", disabled: pages.length < 2, onclick: () => { pages.pop(); load(); } }, "Previous page"),
      h("button", { type: "button", disabled: !found.next_page, onclick: () => { pages.push(found.next_page); load(); } }, "Next page")));
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    pages.splice(1);
    context.remember([["name", name.value], ["prefix", prefix.value]]);
    load().catch((error) => notice(error.message, "error"));
  });
  await load();
  return [h("h1", null, "Entities"), form, results];
}

function short(state) {
  if (state?.$hidden) return "hidden";
  if (state?.$cut) return `${state.text.slice(0, 60)}…`;
  const told = JSON.stringify(state) ?? "";
  return told.length > 60 ? `${told.slice(0, 60)}…` : told;
}

async function signal(entity, again) {
  const done = await ask({
    title: `Signal: ${entity.key}`, about: "Nobody waits for the operation; if it fails, its note says so.", action: "Signal",
    fields: [{ name: "operation", label: "Operation", required: true }, { name: "input", label: "Input, as JSON", kind: "json" }],
    act: (values) => post(`entities/${entity.name_segment}/${entity.key_segment}/signal`, values),
  });
  if (done) { notice("Signaled."); setTimeout(again, 500); }
}
