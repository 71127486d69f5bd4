// Job trees: a list of them, and one as it stands.

import { get, listen, may, post } from "./api.js";
import { ask } from "./dialogs.js";
import { fill, h, notice } from "./dom.js";
import { status, text, time, took } from "./format.js";
import { INSTANCE_COLUMNS, table, tagsOf } from "./tables.js";
import { failure, value } from "./values.js";

const TREES = "durable.jobs";

export async function jobsPage(context) {
  const pages = [null];
  const results = h("div", { "aria-live": "polite" });
  const load = async () => {
    const found = await get("instances", { name: TREES, page: pages.at(-1) });
    if (!context.isCurrent()) return;
    fill(results, table("Job trees", [
      ["Status", (row) => status(row.status)],
      ["Job tree", (row) => h("a", { href: `#/jobs/${row.segment}`, class: "id" }, row.instance_id)],
      ...INSTANCE_COLUMNS.slice(3, 5), ["", (row) => tagsOf(row)],
    ], found.instances, "There are no job trees."),
    h("div", { class: "buttons pager" },
      h("button", { type: "button", disabled: pages.length < 2, onclick: () => { pages.pop(); load(); } }, "Previous page"),
      h("button", { type: "button", disabled: !found.next_page, onclick: () => { pages.push(found.next_page); load(); } }, "Next page")));
  };
  await load();
  return [h("h1", null, "Job trees"), results];
}

export async function jobPage(context) {
  const body = h("div", null);
  let id = "";
  const load = async () => {
    const found = await get(`jobs/${context.segment}`);
    if (!context.isCurrent()) return;
    id = found.instance_id;
    fill(body, tree(found, context.segment, load));
  };
  await load();
  context.title(id);
  context.onLeave(listen(`instances/${context.segment}/live`, { instance: () => { if (!body.querySelector(".job details[open]")) load().catch(() => {}); } }));
  const cancel = may("OPERATOR")
    ? h("button", { type: "button", class: "danger", onclick: async () => {
      if (await ask({ title: `Cancel all jobs: ${id}`, action: "Cancel all", danger: true, about: "What follows is left to the conditions of the jobs.",
        fields: [{ name: "reason", label: "Reason" }], act: (given) => post(`jobs/${context.segment}/cancel`, given) })) load();
    } }, "Cancel all")
    : null;
  return [h("div", { class: "title" }, h("h1", { class: "id" }, id), h("div", { class: "buttons" }, h("a", { class: "button", href: `#/instances/${context.segment}` }, "As an instance"), cancel)), body];
}

function tree(found, segment, load) {
  const lists = new Map([[null, h("ul", { class: "jobs" })]]);
  for (const job of found.jobs) {
    const below = h("ul", { class: "jobs" });
    lists.set(job.id, below);
    lists.get(job.parent_id)?.append(h("li", null, line(job, segment, load), below));
  }
  return [found.count > found.jobs.length ? h("p", { class: "none" }, `The first ${found.jobs.length} of ${found.count} jobs.`) : null, lists.get(null)];
}

function line(job, segment, load) {
  const settled = !["IDLE", "QUEUED", "IN_PROGRESS"].includes(job.status);
  const more = h("details", null, h("summary", null, "More"), value(job.request, "Request"), value(job.result, "Result"), job.error ? failure(job.error) : null);
  return h("div", { class: "job card" },
    h("div", { class: "job-line" }, status(job.status), h("strong", null, job.function), job.description ? h("span", null, job.description) : null,
      job.parent_id === null ? null : h("small", null, job.run_condition.toLowerCase().replaceAll("_", " ")),
      job.attempts > 1 ? h("small", null, `attempt ${job.attempts}`) : null,
      job.started_at ? took(job.started_at, job.finished_at) : job.scheduled_for ? h("span", null, "for ", time(job.scheduled_for, "short")) : null,
      !settled && may("OPERATOR") ? h("button", { type: "button", class: "small danger", onclick: async () => {
        if (await ask({ title: `Cancel: ${job.function}`, action: "Cancel job", danger: true, about: "Its children go by their conditions.",
          fields: [{ name: "reason", label: "Reason" }], act: (given) => post(`jobs/${segment}/jobs/${job.id}/cancel`, given) })) { notice("Cancelled."); load(); }
      } }, "Cancel") : null),
    job.skip_reason ? h("p", { class: "why" }, text(job.skip_reason)) : null,
    job.error ? h("p", { class: "why" }, text(job.error.message)) : null, more);
}
