// Schedules, with their next times.

import { get, may, post, remove } from "./api.js";
import { ask } from "./dialogs.js";
import { fill, h, notice } from "./dom.js";
import { span, text, time } from "./format.js";
import { table } from "./tables.js";
import { value } from "./values.js";

export async function schedulesPage(context) {
  const body = h("div", null);
  const load = async () => {
    const found = await get("schedules");
    if (context.isCurrent()) fill(body, content(found.schedules, load));
  };
  await load();
  const timer = setInterval(() => { if (!body.querySelector("details[open]") && !document.querySelector("dialog")) load().catch(() => {}); }, 5000);
  context.onLeave(() => clearInterval(timer));
  return [h("h1", null, "Schedules"), body];
}

function content(schedules, load) {
  return table("Schedules", [
    ["Schedule", (one) => h("a", { href: `#/instances/${one.segment}?kind=s`, class: "id" }, one.id)],
    ["Starts", (one) => one.target],
    ["When", (one) => [one.cron ?? (one.interval_seconds ? `every ${span(one.interval_seconds * 1000)}` : "once"), one.cron ? h("small", null, ` ${one.timezone}`) : null]],
    ["Next", (one) => (one.is_finished ? "over" : one.is_paused ? h("span", { class: "bad" }, "paused") : one.next_times.length ? [time(one.next_times[0], "short"), " ", h("small", null, time(one.next_times[0], "age"))] : "none")],
    ["Started", (one) => [one.started, one.skipped ? h("small", null, ` ${one.skipped} skipped`) : null, one.missed ? h("small", { class: "bad" }, ` ${one.missed} missed`) : null]],
    ["", (one) => [details(one), buttons(one, load)]],
  ], schedules, "There are no schedules.");
}

function details(one) {
  const times = h("div", null);
  const found = h("details", null, h("summary", null, "More"), times);
  found.addEventListener("toggle", async () => {
    if (!found.open) return;
    const full = await get(`schedules/${one.segment}`, { count: 10 });
    fill(times,
      full.note ? h("p", null, "Note: ", text(full.note)) : null,
      full.stall_reason ? h("p", { class: "bad" }, text(full.stall_reason)) : null,
      h("p", null, `Overlap: ${full.overlap.toLowerCase().replaceAll("_", " ")}. Runs now: ${full.running_count}, buffered: ${full.buffered}.`),
      h("h3", null, "Next times"), h("ol", { class: "plain-list" }, full.next_times.map((at) => h("li", null, time(at, "short"), " ", h("small", null, time(at, "age"))))),
      h("h3", null, "Latest starts"), h("ul", { class: "plain-list" }, full.recent.toReversed().map((start) =>
        h("li", null, time(start.started_at, "short"), " ", h("a", { href: `#/instances/${start.segment}`, class: "id" }, start.instance_id)))),
      value(full.input, "Input"));
  });
  return found;
}

function buttons(one, load) {
  const path = `schedules/${one.segment}`;
  const button = (label, options) => h("button", { type: "button", class: options.danger ? "small danger" : "small",
    onclick: async () => {
      if (await ask({ title: `${label}: ${one.id}`, action: label, ...options })) { notice(`${label}: done.`); load(); }
    } }, label);
  const note = [{ name: "note", label: "Note" }];
  return h("div", { class: "buttons" },
    may("OPERATOR") && !one.is_finished ? [
      one.is_paused
        ? button("Resume", { about: "Its next time counts from now on.", fields: note, act: (given) => post(`${path}/resume`, given) })
        : button("Pause", { about: "No further time counts until it is resumed.", fields: note, act: (given) => post(`${path}/pause`, given) }),
      button("Trigger", { about: "What it starts is started now.", act: () => post(`${path}/trigger`, {}) })] : null,
    may("ADMIN") ? button("Delete", { danger: true, about: "What it has started runs on.", act: () => remove(path) }) : null);
}
