// The hub at a glance, live.

import { get, listen } from "./api.js";
import { fill, h, s } from "./dom.js";
import { count, now, span, time } from "./format.js";
import { INSTANCE_COLUMNS, table, tile } from "./tables.js";

const ORDER = ["RUNNING", "PENDING", "SUSPENDED", "STALLED", "FAILED", "COMPLETED", "CANCELLED", "TERMINATED"];
const SAMPLES_MAX = 120;

export async function overviewPage(context) {
  const body = h("div", null);
  const state = h("span", { class: "live" }, "");
  const samples = [];
  const draw = (overview) => {
    const finished = overview.counts.COMPLETED + overview.counts.FAILED + overview.counts.CANCELLED + overview.counts.TERMINATED;
    samples.push({ at: now(), finished });
    if (samples.length > SAMPLES_MAX) samples.shift();
    fill(body, content(overview, samples));
  };
  draw(await get("overview"));
  context.onLeave(listen("live", { overview: draw }, (isLive) => {
    state.dataset.live = isLive;
    fill(state, isLive ? "live" : "not live: it looks again shortly");
  }));
  return [h("div", { class: "title" }, h("h1", null, "Overview"), state), body];
}

function content(overview, samples) {
  const lastHour = Object.values(overview.started_last_hour).reduce((sum, one) => sum + one, 0);
  const failedShare = lastHour ? (100 * overview.started_last_hour.FAILED) / lastHour : 0;
  return [
    h("section", { class: "tiles", "aria-label": "Instances by status" },
      ORDER.map((name) => tile(name.toLowerCase(), overview.counts[name], name, `#/instances?status=${name}`))),
    h("div", { class: "cards" },
      card("Rates", h("dl", null,
        pair("Started in the last minute", count(overview.started_last_minute)),
        pair("Started in the last hour", count(lastHour)),
        pair("Of these failed", `${count(overview.started_last_hour.FAILED)} (${failedShare.toFixed(1)} %)`),
        pair("Finishing now", `${rate(samples)} per second`)), sparkline(samples)),
      card("Workers", h("dl", null,
        pair("Live", count(overview.workers_live)),
        overview.workers_dead ? pair("Not heard of any more", count(overview.workers_dead)) : null,
        pair("Partitions", `${count(overview.partitions - overview.partitions_unowned)} of ${count(overview.partitions)} owned`),
        pair("Waits longest", overview.oldest_unfinished.length ? time(overview.oldest_unfinished[0].created_at, "age") : "nothing")),
        overview.partitions_unowned || !overview.workers_live
          ? h("p", { class: "warn" }, overview.workers_live ? "Some partitions have no owner: what is in them waits." : overview.oldest_unfinished.length ? "No worker runs: what is unfinished waits." : "No worker runs.")
          : null,
        h("p", null, h("a", { href: "#/workers" }, "All workers")))),
    overview.stalled.length ? card("Stalled", table("Stalled instances", INSTANCE_COLUMNS, overview.stalled)) : null,
    card("Latest failures", table("Latest failures", INSTANCE_COLUMNS, overview.failed, "Nothing has failed.")),
    card("Oldest unfinished", table("Oldest unfinished instances", INSTANCE_COLUMNS, overview.oldest_unfinished, "Nothing is unfinished.")),
  ];
}

export const card = (title, ...content) => h("section", { class: "card" }, h("h2", null, title), content);
export const pair = (name, ...value) => [h("dt", null, name), h("dd", null, value)];

function rate(samples) {
  const recent = samples.filter((one) => one.at > now() - 15000);
  if (recent.length < 2) return "0";
  const [first, last] = [recent[0], recent.at(-1)];
  const found = ((last.finished - first.finished) * 1000) / Math.max(last.at - first.at, 1);
  return Math.max(found, 0).toFixed(found < 10 ? 1 : 0);
}

function sparkline(samples) {
  if (samples.length < 3) return null;
  const rates = samples.slice(1).map((one, at) => Math.max(0, ((one.finished - samples[at].finished) * 1000) / Math.max(one.at - samples[at].at, 1)));
  const top = Math.max(...rates, 1);
  const points = rates.map((one, at) => `${((at * 300) / Math.max(rates.length - 1, 1)).toFixed(1)},${(38 - (36 * one) / top).toFixed(1)}`);
  const length = span(samples.at(-1).at - samples[0].at);
  return s("svg", { class: "spark", viewBox: "0 0 300 40", role: "img", preserveAspectRatio: "none" },
    s("title", null, `Finished per second over the last ${length}, at most ${top.toFixed(1)}`), s("polyline", { points: points.join(" ") }));
}
