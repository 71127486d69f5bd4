// Times, spans and sizes for people. Each time is shown in the chosen zone with the other one at hand; ages tick.

import { h } from "./dom.js";
import { clock } from "./api.js";

export const zone = { utc: localStorage.getItem("durable-zone") === "utc" };

export function setZone(utc) {
  zone.utc = utc;
  localStorage.setItem("durable-zone", utc ? "utc" : "local");
  for (const element of document.querySelectorAll("time[data-at]")) show(element);
}

export const now = () => Date.now() + clock.ahead;

/** Milliseconds of a time as the API writes it, also where only microseconds differ. */
export function ms(iso) {
  if (!iso) return null;
  const micro = /\.\d{3}(\d{3})/.exec(iso);
  return Date.parse(iso) + (micro ? Number(micro[1]) / 1000 : 0);
}

const two = (number) => String(number).padStart(2, "0");

export function stamp(at, utc = zone.utc, withMs = true) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return "?";
  const get = (part) => (utc ? date[`getUTC${part}`]() : date[`get${part}`]());
  const day = `${get("FullYear")}-${two(get("Month") + 1)}-${two(get("Date"))}`;
  const time = `${two(get("Hours"))}:${two(get("Minutes"))}:${two(get("Seconds"))}`;
  const part = withMs ? `.${String(get("Milliseconds")).padStart(3, "0")}` : "";
  return `${day} ${time}${part}`;
}

const zoneName = () => Intl.DateTimeFormat().resolvedOptions().timeZone;

/** A span in milliseconds, in at most two units. */
export function span(length) {
  if (length === null || length === undefined || Number.isNaN(length)) return "";
  const sign = length < 0 ? "−" : "";
  const value = Math.abs(length);
  if (value < 1) return `${sign}${value < 0.0005 ? 0 : value.toFixed(value < 0.1 ? 2 : 1)} ms`;
  if (value < 1000) return `${sign}${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;
  const seconds = value / 1000;
  if (seconds < 60) return `${sign}${seconds < 10 ? seconds.toFixed(2) : seconds.toFixed(1)} s`;
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = units.findIndex(([, size]) => seconds >= size);
  const whole = Math.floor(seconds / units[first][1]);
  const rest = Math.floor((seconds - whole * units[first][1]) / (units[first + 1]?.[1] ?? 1));
  const tail = rest && units[first + 1] ? ` ${rest} ${units[first + 1][0]}` : "";
  return `${sign}${whole} ${units[first][0]}${tail}`;
}

/** How long ago, or in how long. */
export function age(at) {
  const past = now() - at;
  if (Math.abs(past) < 1500) return "now";
  const units = [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]];
  const seconds = Math.abs(past) / 1000;
  // With the next smaller unit, as the command line has it: "in 3 h" would be said of what is due in nearly four.
  const largest = Math.max(units.findIndex(([, one]) => seconds >= one), 0);
  const [name, size] = units[largest];
  const [lesser, part] = units[largest + 1] ?? ["", Infinity];
  const rest = Math.floor((seconds % size) / part);
  const text = `${Math.floor(seconds / size)} ${name}${rest ? ` ${rest} ${lesser}` : ""}`;
  return past > 0 ? `${text} ago` : `in ${text}`;
}

function show(element) {
  const at = Number(element.dataset.at);
  const other = zone.utc ? `${stamp(at, false)} ${zoneName()}` : `${stamp(at, true)} UTC`;
  const own = `${stamp(at)} ${zone.utc ? "UTC" : zoneName()}`;
  element.title = `${own}\n${other}\n${age(at)}`;
  element.textContent = element.dataset.how === "age" ? age(at) : stamp(at, zone.utc, element.dataset.how !== "short");
}

/** A time: `how` is "full", "short" (no milliseconds) or "age" (ticking). */
export function time(iso, how = "full") {
  const at = ms(iso);
  if (at === null) return h("span", { class: "none" }, "–");
  const element = h("time", { datetime: iso, "data-at": at, "data-how": how });
  show(element);
  return element;
}

setInterval(() => {
  for (const element of document.querySelectorAll('time[data-how="age"]')) {
    const text = age(Number(element.dataset.at));
    if (element.textContent !== text) show(element);
  }
  for (const element of document.querySelectorAll("[data-since]")) {
    const text = span(now() - Number(element.dataset.since));
    if (element.textContent !== text) element.textContent = text;
  }
}, 1000);

/** How long something took, or takes so far: then it ticks. */
export function took(from, until) {
  const began = ms(from);
  if (began === null) return h("span", null, "");
  if (until) return h("span", null, span(ms(until) - began));
  return h("span", { "data-since": began, class: "ticking" }, span(now() - began));
}

export const count = (number) => Number(number).toLocaleString("en");

export function bytes(size) {
  if (size < 1024) return `${size} B`;
  return size < 1024 * 1024 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / 1024 / 1024).toFixed(1)} MiB`;
}

const SHAPES = {
  PENDING: "◌", RUNNING: "▶", SUSPENDED: "Ⅱ", STALLED: "▲", COMPLETED: "✔", FAILED: "✖", CANCELLED: "⊘", TERMINATED: "■",
  IDLE: "◌", QUEUED: "◔", IN_PROGRESS: "▶", DONE: "✔", DUE_DONE: "✔", SKIPPED: "»",
  open: "▶", completed: "✔", failed: "✖", cancelled: "⊘", left: "»",
};

/** A status by colour, shape and word. */
export function status(name) {
  return h("span", { class: "status", "data-status": String(name).toUpperCase() }, h("span", { "aria-hidden": "true" }, SHAPES[name] ?? "•"), name);
}

/** Text that may be hidden from whoever looks. */
export function text(value) {
  if (value && typeof value === "object" && value.$hidden) return h("span", { class: "none" }, "hidden from your role");
  return value ?? "";
}
