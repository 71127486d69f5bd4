// A timeline to scale: a row for each thing that the instance did or waited for. Only the rows in sight are drawn; zoom and pan change
// the span of time in view. The history beside it says the same in text.

import { get } from "./api.js";
import { segmentOf } from "./dialogs.js";
import { fill, h, perFrame, s } from "./dom.js";
import { count, ms, now, span, stamp, status, text, time } from "./format.js";
import { failure } from "./values.js";

const ROW = 24;
const AXIS = 26;
const EXTRA = 4;
const SHARE_MIN = 1e-7;
const ARRIVED = new Set(["event", "mark"]);
const TOLD_MOMENTS = 5;
const LINED_MOMENTS = 30;
const MOMENTS = new Set(["event", "sent", "performed", "mark"]);
const GLYPHS = { activity: "⚙", child: "↳", detached: "⇢", timer: "◷", wait: "◔", operation: "◆", lock: "◈", suspension: "Ⅱ", event: "✉", sent: "➤", performed: "◆", mark: "⚑" };
const STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 15e3, 3e4, 6e4, 12e4, 3e5, 6e5, 9e5, 18e5, 36e5, 72e5, 216e5, 432e5, 864e5, 1728e5, 6048e5, 2592e6, 7776e6, 31536e6];

export async function timelineView({ path, kind, generation, state: opened }) {
  let drawn = await get(`${path}/timeline`, { kind, generation });
  let state = opened;
  let view = { from: 0, until: 1 };
  let chosen = -1;
  let filter = "all";

  const axis = s("svg", { class: "axis", "aria-hidden": "true" });
  const canvas = s("svg", { class: "bars" });
  const spacer = h("div", { class: "spacer" });
  const box = h("div", { class: "timeline", tabindex: "0", role: "listbox", "aria-label": "Timeline, one row for each thing done or waited for" }, h("div", { class: "sticky" }, canvas), spacer);
  const details = h("section", { class: "card row-details", "aria-live": "polite" });
  const heading = h("span", { class: "none" });
  const waiting = h("p", { class: "waiting" });
  const moments = h("p", { class: "moments" });
  const kinds = h("select", { "aria-label": "What is shown", onchange: (event) => { filter = event.target.value; chosen = -1; size(); draw(); } },
    [["all", "everything"], ["long", "what lasts"], ["open", "what is open"], ["failed", "what failed"]].map(([value, label]) => h("option", { value }, label)));
  const button = (label, told, act) => h("button", { type: "button", title: told, "aria-label": told, onclick: act }, label);
  const element = h("div", null,
    h("div", { class: "buttons" }, heading, kinds, button("−", "Zoom out (−)", () => zoom(2)), button("+", "Zoom in (+)", () => zoom(0.5)), button("←", "Earlier", () => pan(-0.3)), button("→", "Later", () => pan(0.3)), button("All", "All of it (0)", () => { view = { from: 0, until: 1 }; draw(); })),
    moments, h("div", { class: "timeline-box" }, axis, box), waiting, legend(), details);

  const rows = () => drawn.rows.filter((row) => ({ all: true, long: !MOMENTS.has(row.kind), open: row.status === "open", failed: row.status === "failed" })[filter]);
  let listed = rows();
  const bounds = () => {
    const began = ms(drawn.started_at) ?? ms(state.created_at) ?? now();
    let ended = ms(drawn.ended_at) ?? (generation === null && !state.completed_at ? now() : ms(state.last_updated_at) ?? now());
    for (const row of drawn.rows) ended = Math.max(ended, ms(row.ended_at) ?? 0);
    return { began, length: Math.max(ended - began, 0.5) };
  };
  const size = () => {
    listed = rows();
    spacer.style.height = `${listed.length * ROW + 4}px`;
    fill(heading, `${count(listed.length)} rows, ${span(bounds().length)}`);
    fill(moments, momentsOf(listed));
    fill(waiting, generation === null ? waitsFor(drawn, state) : null);
  };
  /** What arrived from outside, as buttons that lead to its row: among hundreds of rows nobody would come upon it. */
  const momentsOf = (all) => {
    const found = all.flatMap((row, at) => (ARRIVED.has(row.kind) ? [at] : []));
    const shown = found.slice(0, TOLD_MOMENTS).map((at) => h("button", { type: "button", class: "plain", onclick: () => choose(at) }, `${GLYPHS[all[at].kind]} ${nameOf(all[at])} `, time(all[at].started_at)));
    return shown.length ? ["Arrived: ", shown, found.length > shown.length ? ` and ${count(found.length - shown.length)} more` : ""] : null;
  };
  const labelWidth = () => Math.min(240, Math.max(110, box.clientWidth * 0.3));

  const draw = perFrame(() => {
    const width = box.clientWidth;
    const height = Math.max(ROW, box.clientHeight);
    if (!width) return;
    const { began, length } = bounds();
    const left = labelWidth();
    const visible = { from: began + view.from * length, length: (view.until - view.from) * length };
    const x = (at) => left + ((at - visible.from) / visible.length) * (width - left - 12);
    const top = box.scrollTop;
    canvas.setAttribute("width", width);
    canvas.setAttribute("height", height);
    axis.setAttribute("width", width);
    axis.setAttribute("height", AXIS);
    const ticks = ticksOf(visible, width - left);
    fill(axis, ticks.map((tick) => [s("line", { x1: x(tick.at), x2: x(tick.at), y1: AXIS - 6, y2: AXIS }), s("text", { x: x(tick.at), y: 14, "text-anchor": "middle" }, tick.label)]));
    const from = Math.max(0, Math.floor(top / ROW) - EXTRA);
    const until = Math.min(listed.length, from + Math.ceil(height / ROW) + 2 * EXTRA);
    const clip = s("clipPath", { id: "bars-clip" }, s("rect", { x: left - 6, y: 0, width: Math.max(width - left + 6, 0), height }));
    const marks = [];
    const arrived = listed.filter((row) => ARRIVED.has(row.kind)).map((row) => x(ms(row.started_at))).filter((at) => at >= left && at <= width);
    if (arrived.length <= LINED_MOMENTS) marks.push(arrived.map((at) => s("line", { class: "arrived", x1: at, x2: at, y1: 0, y2: height })));
    for (let at = from; at < until; at += 1) marks.push(drawRow(listed[at], at, at * ROW - top, x, left, width));
    fill(canvas, s("defs", null, clip), ticks.map((tick) => s("line", { class: "grid", x1: x(tick.at), x2: x(tick.at), y1: 0, y2: height })), marks);
    box.setAttribute("aria-activedescendant", chosen >= from && chosen < until ? `bar-${chosen}` : "");
  });

  function drawRow(row, at, y, x, left, width) {
    const began = ms(row.started_at);
    const isOpen = row.status === "open" || row.status === "left";
    const ended = ms(row.ended_at) ?? (isOpen && generation === null && !state.completed_at ? now() : ms(drawn.ended_at) ?? now());
    const label = `${GLYPHS[row.kind] ?? "•"} ${nameOf(row)}`;
    const fits = Math.floor(left / 7.2) - 1;
    const parts = [];
    if (MOMENTS.has(row.kind)) {
      const cx = x(began);
      parts.push(s("path", { class: "moment", d: `M${cx - 5} ${y + 12}l5 -5l5 5l-5 5z` }));
    } else if (row.attempts.length > 1) {
      parts.push(s("line", { class: "pause", x1: x(began), x2: x(ended), y1: y + 12, y2: y + 12 }));
      for (const attempt of row.attempts) {
        parts.push(bar(x(ms(attempt.started_at)), x(ms(attempt.ended_at) ?? ended), y, attempt.status));
      }
    } else {
      parts.push(bar(x(began), x(ended), y, row.status));
    }
    if (row.due_at && row.status === "open") {
      const due = x(ms(row.due_at));
      if (due > left && due < width) parts.push(s("path", { class: "due", d: `M${due} ${y + 4}v16` }));
    }
    return s("g", { id: `bar-${at}`, role: "option", class: "bar-row", "aria-selected": at === chosen, "aria-label": told(row), "aria-posinset": at + 1, "aria-setsize": listed.length, onclick: () => choose(at, false), "data-status": row.status.toUpperCase() },
      s("title", null, told(row)), s("rect", { class: "hit", x: 0, y, width, height: ROW }),
      s("text", { x: 6, y: y + 16, class: "label" }, label.length > fits ? `${label.slice(0, fits - 1)}…` : label),
      s("g", { "clip-path": "url(#bars-clip)" }, parts));
  }

  function choose(at, scrolls = true) {
    chosen = Math.min(Math.max(at, 0), listed.length - 1);
    if (scrolls) {
      const top = chosen * ROW;
      if (top < box.scrollTop) box.scrollTop = top;
      else if (top + ROW > box.scrollTop + box.clientHeight) box.scrollTop = top + ROW - box.clientHeight;
    }
    if (listed[chosen]) fill(details, rowDetails(listed[chosen]));
    draw();
  }

  function zoom(factor, at = 0.5) {
    const length = view.until - view.from;
    const wanted = Math.min(1, Math.max(SHARE_MIN, length * factor));
    const middle = view.from + length * at;
    const from = Math.min(Math.max(0, middle - wanted * at), 1 - wanted);
    view = { from, until: from + wanted };
    draw();
  }

  function pan(share) {
    const length = view.until - view.from;
    const from = Math.min(Math.max(0, view.from + share * length), 1 - length);
    view = { from, until: from + length };
    draw();
  }

  box.addEventListener("scroll", draw, { passive: true });
  box.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.shiftKey) return;
    event.preventDefault();
    const left = labelWidth();
    if (event.shiftKey) pan((event.deltaY || event.deltaX) / 800);
    else zoom(event.deltaY > 0 ? 1.25 : 0.8, Math.min(1, Math.max(0, (event.offsetX - left) / (box.clientWidth - left))));
  }, { passive: false });
  let dragged = null;
  canvas.addEventListener("pointerdown", (event) => { dragged = event.clientX; });
  canvas.addEventListener("pointermove", (event) => {
    if (dragged === null || !event.buttons) return;
    pan((dragged - event.clientX) / Math.max(box.clientWidth - labelWidth(), 1));
    dragged = event.clientX;
  });
  canvas.addEventListener("pointerup", () => { dragged = null; });
  box.addEventListener("keydown", (event) => {
    const page = Math.floor(box.clientHeight / ROW) - 1;
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -listed.length, End: listed.length }[event.key];
    const other = { "+": () => zoom(0.5), "=": () => zoom(0.5), "-": () => zoom(2), 0: () => zoom(1e9), ArrowLeft: () => pan(-0.2), ArrowRight: () => pan(0.2) }[event.key];
    if (step) choose(chosen + step);
    else if (other) other();
    else return;
    event.preventDefault();
  });
  const observer = new ResizeObserver(draw);
  observer.observe(box);
  const ticking = setInterval(() => { if (!drawn.ended_at) draw(); }, 1000);
  size();
  return {
    element, shown: draw,
    end: () => { observer.disconnect(); clearInterval(ticking); },
    update: async (next) => {
      state = next.state;
      if (generation === null) drawn = await get(`${path}/timeline`, { kind, generation });
      size();
      if (chosen >= 0 && listed[chosen]) fill(details, rowDetails(listed[chosen]));
      draw();
    },
  };
}

function bar(from, until, y, kind) {
  return s("rect", { class: "bar", "data-status": kind.toUpperCase(), x: from, y: y + 5, width: Math.max(until - from, 2), height: ROW - 10, rx: 3 });
}

/** What an unfinished instance waits for now; a wait for an event without a time limit leaves no record. */
function waitsFor(drawn, state) {
  if (state.status !== "RUNNING") return state.status === "SUSPENDED" ? "Suspended: what arrives waits for the resume." : null;
  const open = drawn.rows.filter((row) => row.status === "open");
  if (!open.length) return "Waits for an external event, whose name only its code knows.";
  const told = open.slice(0, 5).map((row, at) => [at ? ", " : "", `${row.kind} ${row.name || row.target || ""} `, row.due_at ? h("small", null, "due ", time(row.due_at, "age")) : null]);
  return ["Waits for: ", told, open.length > 5 ? ` and ${open.length - 5} more` : "", "; events may be waited for beside that."];
}

const nameOf = (row) => (typeof row.name === "string" ? row.name : "") || { wait: "external event", suspension: "suspended", timer: "timer" }[row.kind] || row.target || row.kind;

function told(row) {
  const length = row.ended_at && !MOMENTS.has(row.kind) ? `, ${span(ms(row.ended_at) - ms(row.started_at))}` : "";
  const tries = row.attempts.length > 1 ? `, ${row.attempts.length} attempts` : "";
  const error = row.error ? `, ${row.error.error_type}` : "";
  return `${row.kind} ${nameOf(row)}, ${row.status}${length}${tries}${error}`;
}

function rowDetails(row) {
  return [
    h("h2", null, `${GLYPHS[row.kind] ?? ""} ${nameOf(row)} `, status(row.status)),
    h("dl", null,
      fact("What", row.kind), fact("Began", time(row.started_at)), row.ended_at ? fact("Ended", time(row.ended_at)) : null,
      row.ended_at ? fact("Took", span(ms(row.ended_at) - ms(row.started_at))) : null,
      row.due_at ? fact("Due", [time(row.due_at), " ", h("small", null, time(row.due_at, "age"))]) : null,
      row.limit_at ? fact("Total time is over at", time(row.limit_at)) : null,
      row.target ? fact("Target", ["child", "detached", "sent"].includes(row.kind) ? h("a", { class: "id", href: `#/instances/${segmentOf(row.target)}` }, row.target) : row.target) : null,
      row.line ? fact("Asked for at", h("code", null, row.line)) : null, fact("Event", String(row.sequence))),
    row.attempts.length > 1 ? h("ol", { class: "plain-list" }, row.attempts.map((one) => h("li", null, `attempt ${one.number} `, status(one.status), " ", time(one.started_at),
      one.ended_at ? ` ${span(ms(one.ended_at) - ms(one.started_at))} ` : " ", one.error ? h("span", { class: "why" }, one.error.error_type, ": ", text(one.error.message)) : null))) : null,
    row.error ? failure(row.error) : null,
  ];
}

const fact = (name, value) => [h("dt", null, name), h("dd", null, value)];

function legend() {
  return h("p", { class: "legend" }, ["completed", "failed", "open", "cancelled"].map((name) => h("span", null, h("i", { "data-status": name.toUpperCase(), "aria-hidden": "true" }), name)),
    h("span", null, "◆ a moment"), h("span", null, "drag, Shift+wheel or ← → move; Ctrl+wheel or + − zoom"));
}

function ticksOf(visible, width) {
  const wanted = visible.length / Math.max(2, Math.floor(width / 130));
  const step = STEPS.find((one) => one >= wanted) ?? wanted;
  const first = Math.ceil(visible.from / step) * step;
  const found = [];
  for (let at = first; at <= visible.from + visible.length && found.length < 60; at += step) found.push({ at, label: labelOf(at, step) });
  return found;
}

function labelOf(at, step) {
  const full = stamp(at);
  if (step >= 864e5) return full.slice(0, 10);
  if (step >= 6e4) return full.slice(5, 16);
  if (step >= 1e3) return full.slice(11, 19);
  return full.slice(11);
}
