// Who works on the hub, what they run, and which partitions they own.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { span } from "./format.js";
import { card } from "./overview.js";
import { table } from "./tables.js";

export async function workersPage(context) {
  const body = h("div", null);
  const draw = async () => { const found = await get("workers"); if (context.isCurrent()) fill(body, content(found)); };
  await draw();
  const timer = setInterval(() => { if (!body.querySelector("details[open]")) draw().catch(() => {}); }, 3000);
  context.onLeave(() => clearInterval(timer));
  return [h("h1", null, "Workers"), body];
}

function content(found) {
  const owners = new Map();
  found.workers.forEach((worker, at) => worker.partitions.forEach((one) => owners.set(one, { worker, at })));
  const cells = Array.from({ length: found.partitions }, (_, number) => {
    const owner = owners.get(number);
    const told = owner ? owner.worker.name : "no owner";
    return h("li", { class: "cell", "data-owner": owner ? owner.at % 8 : "none", title: `Partition ${number}: ${told}` }, h("span", { class: "hidden" }, `${number}: ${told}`));
  });
  return [
    found.clock_correction_seconds
      ? h("p", { class: "warn" }, `The store's clock has jumped by ${span(-found.clock_correction_seconds * 1000)}. Leases and timers go on by monotonic time until it agrees, or until an operator confirms it.`)
      : null,
    card("Workers", table("Workers", [
      ["Worker", (one) => [h("span", { class: "owner", "data-owner": found.workers.indexOf(one) % 8, "aria-hidden": "true" }), one.name]],
      ["State", (one) => (one.is_live ? "live" : h("span", { class: "bad" }, "not heard of any more"))],
      ["Partitions", (one) => one.partitions.length],
      ["Runs", (one) => one.unreadable ?? [one.orchestrations ? "orchestrations" : null, one.queues?.length ? `activities of ${one.queues.join(", ")}` : null].filter(Boolean).join(" and ")],
      ["Serves", (one) => serves(one)],
    ], found.workers, "No worker runs.")),
    card("Partitions", h("ul", { class: "partitions", "aria-label": "Partitions and their owners" }, cells),
      found.unowned.length ? h("p", { class: "warn" }, `${found.unowned.length} without a live owner.`) : null),
  ];
}

function serves(worker) {
  if (!worker.serves?.length) return "";
  return h("details", null, h("summary", null, `${worker.serves.length} names`), h("ul", { class: "plain-list" },
    worker.serves.map((one) => h("li", null, h("small", null, `${one.kind} `), one.name, h("small", null, one.versions.join() === "0" ? "" : ` v${one.versions.join(", ")}`)))));
}
