// Who did what, and when.

import { get } from "./api.js";
import { h } from "./dom.js";
import { time } from "./format.js";
import { segmentOf } from "./dialogs.js";
import { table } from "./tables.js";

const OF_INSTANCES = new Set(["raise", "cancel", "terminate", "suspend", "resume", "rewind", "restart", "fork", "cancel jobs", "cancel job"]);

export async function auditPage(context) {
  const found = await get("audit", { page: context.query.get("page") ?? "" });
  return [
    h("h1", null, "Audit"),
    h("p", { class: "none" }, "Each action through this site, by whom and when. Kept for a year."),
    table("Actions", [
      ["When", (one) => time(one.at, "short")],
      ["Who", (one) => [one.who, h("small", null, ` ${one.role?.toLowerCase() ?? ""}, by ${one.way ?? ""}`)]],
      ["Action", (one) => one.action],
      ["Target", (one) => (OF_INSTANCES.has(one.action) ? h("a", { href: `#/instances/${segmentOf(one.target)}`, class: "id" }, one.target) : h("span", { class: "id" }, one.target))],
      ["Details", (one) => Object.entries(one.details ?? {}).map(([name, value]) => h("div", null, h("small", null, `${name}: `), String(value)))],
      ["Outcome", (one) => one.outcome],
    ], found.entries, "Nothing was done through this site yet."),
    found.next_page ? h("p", null, h("a", { href: `#/audit?${new URLSearchParams({ page: found.next_page })}` }, "Older")) : null,
  ];
}
