// A history of any length: rows of one height, of which only those in sight are in the page; the events come in parts.

import { get } from "./api.js";
import { fill, h, perFrame } from "./dom.js";
import { count, ms, span, time } from "./format.js";
import { failure, value } from "./values.js";

const ROW = 30;
const PART = 500;
const EXTRA = 8;
const PIXELS_MAX = 30_000_000;

const ABOUT = ["name", "key", "operation", "instance_id", "patch_id", "purpose", "reason"];
const APART = new Set(["type", "sequence", "timestamp", "is_request", "details"]);

export async function historyView({ path, kind, generation, state }) {
  const parts = new Map();
  let first = await get(`${path}/history`, { kind, generation, limit: PART });
  let length = first.length;
  parts.set(0, first.events);
  let began = ms(first.events[0]?.timestamp);
  let chosen = -1;

  const layer = h("div", { class: "rows" });
  const spacer = h("div", { class: "spacer" }, layer);
  const list = h("div", { class: "events", tabindex: "0", role: "listbox", "aria-label": "Events" }, spacer);
  const details = h("section", { class: "card event-details", "aria-live": "polite" }, h("p", { class: "none" }, "Choose an event to see all of it."));
  const heading = h("p", { class: "none" });
  const jump = h("input", { type: "number", min: 0, "aria-label": "Go to the event with this sequence", placeholder: "go to…" });
  jump.addEventListener("change", () => choose(Math.min(Math.max(Number(jump.value), 0), length - 1)));
  const element = h("div", { class: "history" }, h("div", { class: "buttons" }, heading, jump,
    h("button", { type: "button", onclick: () => choose(0) }, "First"), h("button", { type: "button", onclick: () => choose(length - 1) }, "Last")), h("div", { class: "split" }, list, details));

  const size = () => {
    spacer.style.height = `${Math.min(length * ROW, PIXELS_MAX)}px`;
    fill(heading, `${count(length)} events in generation ${first.generation}`);
  };
  const scale = () => Math.max(1, (length * ROW) / PIXELS_MAX);
  const draw = perFrame(() => {
    const from = Math.max(0, Math.floor((list.scrollTop * scale()) / ROW) - EXTRA);
    const until = Math.min(length, from + Math.ceil(list.clientHeight / ROW) + 2 * EXTRA);
    layer.style.transform = `translateY(${scale() > 1 ? Math.max(0, list.scrollTop - EXTRA * ROW) : from * ROW}px)`;
    const rows = [];
    for (let at = from; at < until; at += 1) rows.push(row(eventAt(at), at));
    fill(layer, rows);
    list.setAttribute("aria-activedescendant", chosen >= from && chosen < until ? `event-${chosen}` : "");
  });

  function eventAt(at) {
    const part = Math.floor(at / PART);
    const known = parts.get(part);
    if (known === undefined) {
      parts.set(part, null);
      get(`${path}/history`, { kind, generation, first: part * PART, limit: PART })
        .then((found) => { parts.set(part, found.events); length = Math.max(length, found.length); draw(); })
        .catch(() => { parts.delete(part); });
    }
    return known?.[at % PART];
  }

  function row(event, at) {
    const place = { class: "event", id: `event-${at}`, role: "option", "aria-selected": at === chosen, "aria-setsize": length, "aria-posinset": at + 1, onclick: () => choose(at, false) };
    if (!event) return h("div", place, h("span", { class: "seq" }, at), h("span", { class: "none" }, "…"));
    const about = ABOUT.map((name) => event[name]).find((one) => typeof one === "string" && one !== "") ?? "";
    const isBad = event.type.endsWith("Failed") || event.type.endsWith("Terminated");
    return h("div", { ...place, "data-bad": isBad || null, "data-request": event.is_request || null }, h("span", { class: "seq" }, at),
      h("span", { class: "when", title: event.timestamp }, began === null ? "" : `+${span(ms(event.timestamp) - began)}`),
      h("span", { class: "type" }, event.type), h("span", { class: "what" }, about, event.attempt > 1 ? ` (attempt ${event.attempt})` : ""),
      h("span", { class: "task" }, event.task_id >= 0 ? `#${event.task_id}` : ""));
  }

  async function choose(at, scrolls = true) {
    chosen = at;
    if (scrolls) {
      const top = (at * ROW) / scale();
      if (top < list.scrollTop) list.scrollTop = top;
      else if (top + ROW > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW - list.clientHeight;
    }
    draw();
    const found = await get(`${path}/history`, { kind, generation, first: at, limit: 1, full: true }).catch((error) => ({ error }));
    if (chosen !== at) return;
    if (found.error || !found.events.length) { fill(details, h("p", { class: "error" }, found.error?.message ?? "It is gone.")); return; }
    const event = found.events[0];
    const others = Object.entries(event).filter(([name]) => !APART.has(name));
    fill(details, h("h2", null, `${event.sequence} · ${event.type}`), h("p", null, time(event.timestamp), h("small", null, event.is_request ? " asked for by the code" : " came from outside")),
      h("dl", null, others.filter(([, one]) => typeof one !== "object").map(([name, one]) => [h("dt", null, name), h("dd", null, String(one))])),
      others.filter(([, one]) => typeof one === "object" && one !== null).map(([name, one]) => value(one, name)),
      event.details ? failure(event.details) : null);
  }

  list.addEventListener("scroll", draw, { passive: true });
  list.addEventListener("keydown", (event) => {
    const page = Math.floor(list.clientHeight / ROW) - 1;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -length, End: length }[event.key];
    if (!step) return;
    event.preventDefault();
    choose(Math.min(Math.max(chosen + step, 0), length - 1));
  });
  const observer = new ResizeObserver(draw);
  observer.observe(list);
  size();
  draw();
  return {
    element,
    end: () => observer.disconnect(),
    update: async () => {
      if (generation !== null) return;
      const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - 2 * ROW;
      const last = Math.max(0, Math.floor((length - 1) / PART));
      const found = await get(`${path}/history`, { kind, generation, first: last * PART, limit: PART });
      if (found.generation !== first.generation || found.run_id !== first.run_id) {
        parts.clear();
        first = await get(`${path}/history`, { kind, generation, limit: PART });
        length = first.length;
        began = ms(first.events[0]?.timestamp);
        parts.set(0, first.events);
      } else {
        parts.set(last, found.events);
        length = found.length;
      }
      size();
      draw();
      if (isAtEnd) list.scrollTop = list.scrollHeight;
    },
  };
}
