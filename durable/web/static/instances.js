// The list: filters, pages, and the same for all that match.

import { get, isAdmin, may, session } from "./api.js";
import { actOnMany, start } from "./dialogs.js";
import { fill, h } from "./dom.js";
import { count } from "./format.js";
import { INSTANCE_COLUMNS, table } from "./tables.js";

export const STATUSES = ["PENDING", "RUNNING", "SUSPENDED", "STALLED", "COMPLETED", "FAILED", "CANCELLED", "TERMINATED"];
const BULK = ["cancel", "terminate", "suspend", "resume", "rewind", "purge"];

export async function instancesPage(context) {
  const { query } = context;
  const chosen = new Set(query.getAll("status").filter((name) => STATUSES.includes(name)));
  const input = (id, label, value, options = {}) =>
    h("div", { class: "field" }, h("label", { for: id }, label), h("input", { id, value, autocomplete: "off", spellcheck: "false", ...options }));
  // Where there is little room, the others are behind a button: the list is what one came for.
  const isFiltered = ["name", "tag", "after", "before", "order", "status"].some((one) => query.has(one));
  const form = h("form", { class: isFiltered ? "filters card all" : "filters card", role: "search" },
    h("div", { class: "row" },
      input("search", "Instance id begins with", query.get("prefix") ?? "", { type: "search", placeholder: "order-  (press /)" }),
      input("name", "Orchestrator", query.get("name") ?? ""),
      input("tag", "Tags (NAME=VALUE, …)", query.getAll("tag").join(", ")),
      input("after", "Created after", query.get("after") ?? "", { type: "datetime-local", step: 1 }),
      input("before", "Created before", query.get("before") ?? "", { type: "datetime-local", step: 1 }),
      h("div", { class: "field" }, h("label", { for: "order" }, "Order"),
        h("select", { id: "order" }, ["newest", "oldest"].map((one) => h("option", { value: one, selected: query.get("order") === one }, `${one} first`))))),
    h("fieldset", { class: "chips" }, h("legend", null, "Status"),
      STATUSES.map((name) => h("label", { class: "chip", "data-status": name },
        h("input", { type: "checkbox", name: "status", value: name, checked: chosen.has(name) }), name.toLowerCase()))),
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Search"),
      h("button", { type: "button", class: "more", "aria-expanded": String(isFiltered), onclick: (event) => { event.target.setAttribute("aria-expanded", String(form.classList.toggle("all"))); } }, "Filters"),
      h("button", { type: "button", onclick: () => { location.hash = "#/instances"; } }, "Clear"),
      may("OPERATOR") ? h("button", { type: "button", onclick: begin }, "Start…") : null));
  const results = h("div", { "aria-live": "polite", "aria-busy": "false" });
  const total = h("span", { class: "none" });
  const pages = [null];

  const field = (id) => form.querySelector(`#${id}`).value.trim();
  const filters = () => {
    const found = {};
    const statuses = [...form.querySelectorAll("[name=status]:checked")].map((one) => one.value);
    if (statuses.length) found.status = statuses;
    if (field("search")) found.prefix = field("search");
    if (field("name")) found.name = field("name");
    const tags = field("tag").split(",").map((one) => one.trim()).filter(Boolean);
    if (tags.length) found.tag = tags;
    if (field("after")) found.created_after = new Date(field("after")).toISOString();
    if (field("before")) found.created_before = new Date(field("before")).toISOString();
    return found;
  };
  const remember = () => {
    const given = filters();
    context.remember([
      ...(given.status ?? []).map((one) => ["status", one]), ["prefix", given.prefix ?? ""], ["name", given.name ?? ""],
      ...(given.tag ?? []).map((one) => ["tag", one]), ["after", field("after")], ["before", field("before")],
      ["order", field("order") === "newest" ? "" : field("order")],
    ]);
  };

  async function load() {
    results.setAttribute("aria-busy", "true");
    fill(total);
    try {
      const found = await get("instances", { ...filters(), order: field("order"), limit: 50, page: pages.at(-1) });
      if (!context.isCurrent()) return;
      const older = h("button", { type: "button", disabled: !found.next_page, onclick: () => { pages.push(found.next_page); load(); } }, "Next page");
      const newer = h("button", { type: "button", disabled: pages.length < 2, onclick: () => { pages.pop(); load(); } }, "Previous page");
      fill(results, table("Instances", INSTANCE_COLUMNS, found.instances, "No instance matches."),
        h("div", { class: "buttons pager" }, newer, h("span", { class: "none" }, `page ${pages.length}`), older,
          h("button", { type: "button", class: "plain", onclick: tally }, "Count all that match"), total));
    } catch (error) {
      if (error.status === 401) return context.again();
      fill(results, h("p", { class: "error", role: "alert" }, error.message));
    }
    results.setAttribute("aria-busy", "false");
  }

  async function tally() {
    fill(total, "counting…");
    fill(total, `${count((await get("count", filters())).count)} match`);
  }

  async function begin() {
    const started = await start();
    if (started) location.hash = `#/instances/${started.segment}`;
  }

  const again = () => { pages.splice(1); remember(); load(); };
  form.addEventListener("submit", (event) => { event.preventDefault(); again(); });
  form.addEventListener("change", (event) => { if (event.target.type === "checkbox" || event.target.id === "order") again(); });
  const many = isAdmin() && !session.read_only
    ? h("details", { class: "many" }, h("summary", null, "Do the same with all that match…"),
      h("div", { class: "buttons" }, BULK.map((name) => h("button", {
        type: "button", class: name === "resume" ? "" : "danger", "data-action": name,
        onclick: async () => { if (await actOnMany(name, filters(), toldBy(filters()))) load(); },
      }, name))))
    : null;
  await load();
  return [h("h1", null, "Instances"), form, many, results];
}

const toldBy = (filters) => Object.entries(filters).map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") : value}`).join("; ");
