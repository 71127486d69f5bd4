// One instance: how it stands, what it did, and what can be done with it. It follows live.

import { get, listen, may, session } from "./api.js";
import { ACTIONS, act } from "./dialogs.js";
import { fill, h, notice } from "./dom.js";
import { status, text, time, took } from "./format.js";
import { historyView } from "./history.js";
import { pair } from "./overview.js";
import { tagsOf } from "./tables.js";
import { timelineView } from "./timeline.js";
import { treeView } from "./tree.js";
import { failure, value } from "./values.js";

const TABS = ["Timeline", "History", "Values", "Tree", "Dropped"];

export async function instancePage(context) {
  const { segment, query } = context;
  const kind = ["e", "s"].includes(query.get("kind")) ? query.get("kind") : "o";
  const path = `instances/${segment}`;
  let state = await get(path, { kind });
  let tab = TABS.includes(query.get("tab")) ? query.get("tab") : "Timeline";
  let generation = query.get("generation");
  const head = h("div", null);
  const panel = h("div", { id: "panel", role: "tabpanel", tabindex: "-1" });
  const live = h("span", { class: "live" });
  let view = null;
  context.title(state.instance_id);

  const shown = () => ({ path, kind, generation, state, context });
  const refresh = async () => {
    state = await get(path, { kind });
    if (!context.isCurrent()) return;
    fill(head, header(state, kind, after, generation, choose));
    await view?.update?.(shown());
  };
  const after = async (action, answer) => {
    if (action.name === "purge") { location.hash = "#/instances"; return; }
    if (answer.segment && answer.segment !== segment) { location.hash = `#/instances/${answer.segment}`; return; }
    await refresh().catch((error) => notice(error.message, "error"));
  };
  const choose = (chosen) => { generation = chosen; remember(); open(tab); fill(head, header(state, kind, after, generation, choose)); };
  const remember = () => context.remember([["kind", kind === "o" ? "" : kind], ["tab", tab === TABS[0] ? "" : tab], ["generation", generation ?? ""]]);

  const tabs = h("div", { role: "tablist", "aria-label": "Views" }, TABS.map((name) => h("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "panel", onclick: () => { open(name); remember(); },
  }, name)));
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = TABS[(TABS.indexOf(tab) + step + TABS.length) % TABS.length];
    open(next);
    remember();
    tabs.querySelector(`#tab-${next}`).focus();
    event.preventDefault();
  });

  async function open(name) {
    tab = name;
    for (const one of tabs.children) {
      const isOpen = one.textContent === name;
      one.setAttribute("aria-selected", isOpen);
      one.tabIndex = isOpen ? 0 : -1;
    }
    panel.setAttribute("aria-labelledby", `tab-${name}`);
    view?.end?.();
    view = null;
    fill(panel, h("p", { class: "none" }, "…"));
    try {
      const made = await VIEWS[name](shown());
      if (tab !== name || !context.isCurrent()) return made.end?.();
      view = made;
      fill(panel, made.element);
      made.shown?.();
    } catch (error) {
      fill(panel, h("p", { class: "error", role: "alert" }, error.message));
    }
  }

  fill(head, header(state, kind, after, generation, choose));
  let busy = false;
  let asked = false;
  const follow = async () => {
    asked = true;
    if (busy) return;
    busy = true;
    while (asked && context.isCurrent()) {
      asked = false;
      await refresh().catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
    busy = false;
  };
  let seen = "";
  context.onLeave(listen(`${path}/live?kind=${kind}`, {
    instance: (row) => {
      const mark = `${row.run_id} ${row.generation} ${row.records} ${row.status}`;
      if (seen && mark !== seen) follow();
      seen = mark;
    },
    gone: () => notice("This instance was purged.", "error"),
  }, (isLive) => { live.dataset.live = isLive; fill(live, isLive ? "live" : "not live"); }));
  context.onLeave(() => view?.end?.());
  open(tab);
  return [h("div", { class: "live-corner" }, live), head, tabs, panel];
}

function header(state, kind, after, generation, choose) {
  const actions = kind === "o" ? ACTIONS.filter((one) => one.when.includes(state.status) && may(one.role, !one.looks) && (!one.looks || session.sees_payloads)) : [];
  const generations = state.generation > 0
    ? h("select", { "aria-label": "Generation", onchange: (event) => choose(event.target.value || null) },
      h("option", { value: "", selected: generation === null }, `${state.generation} (now)`),
      Array.from({ length: Math.min(state.generation, 50) }, (_, at) => state.generation - 1 - at).map((one) => h("option", { value: one, selected: generation === String(one) }, String(one))))
    : "0";
  return [
    h("div", { class: "title" }, h("h1", { class: "id" }, state.instance_id), status(state.status)),
    h("div", { class: "buttons actions" }, actions.map((one) => h("button", {
      type: "button", class: one.danger ? "danger" : "", "data-action": one.name,
      onclick: async () => { const answer = await act(one, state.instance_id, state.segment); if (answer) await after(one, answer); },
    }, one.label)),
    h("a", { class: "button", href: `api/instances/${state.segment}/export?kind=${kind}`, download: "history.durable" }, "Export history"),
    state.name === "durable.jobs" ? h("a", { class: "button", href: `#/jobs/${state.segment}` }, "Job tree") : null),
    state.stall_reason ? h("div", { class: "failure stall" }, h("h3", null, "Stalled: it goes on by itself when it can"), h("pre", null, text(state.stall_reason))) : null,
    state.failure_details ? failure(state.failure_details, state.status === "FAILED" ? "It failed" : "It ended") : null,
    h("dl", { class: "facts card" },
      pair("Orchestrator", state.name, state.version ? ` v${state.version}` : ""),
      pair("Created", time(state.created_at), " ", h("small", null, time(state.created_at, "age"))),
      state.scheduled_at !== state.created_at ? pair("Begins", time(state.scheduled_at), " ", h("small", null, time(state.scheduled_at, "age"))) : null,
      pair("Changed", time(state.last_updated_at), " ", h("small", null, time(state.last_updated_at, "age"))),
      pair(state.completed_at ? "Took" : "So far", took(state.created_at, state.completed_at)),
      state.due_at && !state.completed_at ? pair("Next timer", time(state.due_at), " ", h("small", null, time(state.due_at, "age"))) : null,
      pair("Run", h("span", { class: "id" }, state.run_id)),
      pair("Generation", generations),
      state.parent_instance_id ? pair("Parent", h("a", { class: "id", href: parentLink(state) }, state.parent_instance_id)) : null,
      Object.keys(state.tags).length ? pair("Tags", tagsOf(state)) : null),
    state.activities?.length ? activities(state) : null,
    state.custom_status === null || kind !== "o" ? null : h("section", { class: "card" }, value(state.custom_status, "Custom status")),
  ];
}

function parentLink(state) {
  const kind = state.parent_kind && state.parent_kind !== "o" ? `?kind=${state.parent_kind}` : "";
  return `#/instances/${state.parent_segment}${kind}`;
}

function activities(state) {
  return h("section", { class: "card" }, h("h2", null, `Open activities (${state.activities.length})`),
    h("ul", { class: "plain-list" }, state.activities.slice(0, 50).map((one) => h("li", null,
      h("strong", null, one.name), h("small", null, ` attempt ${one.attempt}, queue ${one.queue}, asked for `), time(one.scheduled_at, "age"),
      one.note ? h("span", { class: "bad" }, ` ${one.note}`) : null,
      one.heartbeat === null ? null : value(one.heartbeat, "Latest heartbeat")))));
}

// ---- the views without a file of their own

async function valuesView({ path, kind, state }) {
  const element = h("div", { class: "cards" });
  const draw = (one) => fill(element, ["input", "output", "custom_status"].map((name) =>
    h("section", { class: "card" }, value(one[name], name.replace("_", " "), async () => draw(await get(path, { kind, full: true }))))));
  draw(state);
  return { element, update: (next) => draw(next.state) };
}

async function droppedView({ path, kind }) {
  const found = await get(`${path}/dropped`, { kind });
  const element = h("div", null, h("p", { class: "none" }, "What was refused, came too late or could not be delivered. Kept for 30 days."),
    found.dropped.length
      ? h("ul", { class: "plain-list" }, found.dropped.map((one) => h("li", { class: "card" }, time(one.timestamp), " ", h("strong", null, one.kind), " ", h("span", { class: "id" }, one.name), h("p", { class: "why" }, text(one.reason)))))
      : h("p", { class: "none empty" }, "Nothing was dropped."));
  return { element };
}

const VIEWS = { Timeline: timelineView, History: historyView, Values: valuesView, Tree: treeView, Dropped: droppedView };
