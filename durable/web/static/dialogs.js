// Asking before something is done. A dialog is the browser's own: it keeps the focus, and Escape leaves it.

import { ApiError, post, remove } from "./api.js";
import { fill, h, notice } from "./dom.js";
import { value } from "./values.js";

/** Ask; resolves with the fields' values when it is confirmed and `act` has succeeded, else with null. */
export function ask({ title, about, fields = [], action = "Confirm", danger = false, act }) {
  return new Promise((resolve) => {
    const inputs = fields.map(fieldOf);
    const error = h("p", { class: "error", role: "alert" });
    const confirm = h("button", { type: "submit", class: danger ? "danger" : "primary" }, action);
    const cancel = h("button", { type: "button", onclick: () => dialog.close() }, "Cancel");
    const form = h("form", { method: "dialog" },
      h("h2", { id: "dialog-title" }, title), h("div", { class: "about" }, about), inputs.map((input) => input.row), error,
      h("div", { class: "buttons" }, cancel, confirm));
    const dialog = h("dialog", { "aria-labelledby": "dialog-title" }, form);
    let done = null;
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      fill(error);
      confirm.disabled = true;
      try {
        const values = {};
        for (const input of inputs) values[input.name] = input.read();
        await act(values);
        done = values;
        dialog.close();
      } catch (problem) {
        fill(error, problem.message);
      }
      confirm.disabled = false;
    });
    dialog.addEventListener("close", () => { dialog.remove(); resolve(done); });
    document.body.append(dialog);
    dialog.showModal();
    (inputs[0]?.control ?? (danger ? cancel : confirm)).focus();
  });
}

function fieldOf({ name, label, kind = "text", value = "", hint = "", required = false, options = [] }) {
  const id = `field-${name}`;
  const control = kind === "json" || kind === "area"
    ? h("textarea", { id, rows: 4, spellcheck: "false", required, value })
    : kind === "choice"
      ? h("select", { id }, options.map((one) => h("option", { value: one }, one)))
      : h("input", { id, type: kind, required, value: kind === "checkbox" ? undefined : value, checked: kind === "checkbox" && value, autocomplete: "off" });
  const row = kind === "checkbox"
    ? h("label", { class: "check" }, control, label)
    : h("div", { class: "field" }, h("label", { for: id }, label), control, hint ? h("small", null, hint) : null);
  const read = () => {
    if (kind === "checkbox") return control.checked;
    if (kind !== "json") return control.value;
    if (!control.value.trim()) return null;
    try {
      return JSON.parse(control.value);
    } catch (problem) {
      throw new Error(`${label}: this is no JSON: ${problem.message}`);
    }
  };
  return { name, row, control, read };
}

const REASON = { name: "reason", label: "Reason", hint: "For the history, and for the note of who did it." };

/** What can be done with one instance; `when`: in which statuses. */
const UNFINISHED = ["PENDING", "RUNNING", "SUSPENDED", "STALLED"];
const ENDED = ["COMPLETED", "FAILED", "CANCELLED", "TERMINATED"];
export const ACTIONS = [
  { name: "raise", label: "Raise event", role: "OPERATOR", when: UNFINISHED, about: "It is delivered once, in the order of its name.",
    fields: [{ name: "name", label: "Name of the event", required: true }, { name: "data", label: "Data, as JSON", kind: "json" }] },
  { name: "update", label: "Update", role: "OPERATOR", when: UNFINISHED, about: "It is carried out once, and answered or refused.",
    fields: [{ name: "name", label: "Name of the update", required: true }, { name: "arg", label: "Argument, as JSON", kind: "json" }] },
  { name: "query", label: "Query", role: "VIEWER", looks: true, when: [...UNFINISHED, ...ENDED], about: "It answers by what it knows, and leaves no trace.",
    fields: [{ name: "name", label: "Name of the query", required: true }, { name: "arg", label: "Argument, as JSON", kind: "json" }] },
  { name: "suspend", label: "Suspend", role: "OPERATOR", when: ["PENDING", "RUNNING", "STALLED"], fields: [REASON], about: "What arrives is recorded and waits for the resume." },
  { name: "resume", label: "Resume", role: "OPERATOR", when: ["SUSPENDED"], fields: [REASON], about: "What has arrived meanwhile is delivered." },
  { name: "cancel", label: "Cancel", role: "OPERATOR", when: UNFINISHED, fields: [REASON], danger: true, about: "CancelledError is raised in its code, once, where it waits; it may clean up." },
  { name: "terminate", label: "Terminate", role: "OPERATOR", when: UNFINISHED, danger: true, about: "It ends at once, and none of its code runs.",
    fields: [REASON, { name: "recursive", label: "Its unfinished children, too", kind: "checkbox", value: true }] },
  { name: "rewind", label: "Rewind", role: "OPERATOR", when: ["FAILED", "CANCELLED", "TERMINATED"], fields: [REASON], about: "What had failed runs again, from the point of failure; what had succeeded is kept." },
  { name: "restart", label: "Restart", role: "OPERATOR", when: [...ENDED, ...UNFINISHED], about: "The same orchestration begins anew with the same input. One that has not ended needs another id.",
    fields: [{ name: "new_id", label: "New id (empty: the same)" }] },
  { name: "fork", label: "Fork", role: "OPERATOR", when: [...ENDED, ...UNFINISHED], about: "A new instance begins with the first events of this one's history behind it.",
    fields: [{ name: "at", label: "First event that is not taken over", kind: "number", required: true, value: 1 }, { name: "new_id", label: "New id (empty: any)" }] },
  { name: "purge", label: "Purge", role: "ADMIN", when: ENDED, danger: true, about: "It is removed with its history and its children's. This cannot be undone." },
];

/** Do one of these with an instance; resolves with the answer, or null. */
export async function act(action, id, segment) {
  let answer = null;
  await ask({
    title: `${action.label}: ${id}`, about: action.about, fields: action.fields ?? [], action: action.label, danger: action.danger,
    act: async (values) => {
      if (action.name === "purge") answer = await remove(`instances/${segment}`);
      else answer = await post(`instances/${segment}/${action.name}`, cleaned(values));
    },
  });
  const said = answer && ["answer", "result"].find((name) => name in answer);
  if (said) await ask({ title: `${action.label}: ${id}`, about: value(answer[said], "Answer"), action: "Close", act: async () => {} });
  else if (answer) notice(`${action.label}: done for ${id}.`);
  return answer;
}

function cleaned(values) {
  const found = {};
  for (const [name, value] of Object.entries(values)) {
    if (name === "at") found[name] = Number(value);
    else if (value !== "" && value !== null) found[name] = value;
  }
  return found;
}

/** Do something with all that match: first it is counted, and the number stands in the question. */
export async function actOnMany(name, filters, shown) {
  let meant;
  try {
    meant = (await post(`bulk/${name}`, { filters, dry_run: true })).count;
  } catch (problem) {
    notice(problem.message, "error");
    return null;
  }
  let answer = null;
  const fields = name === "purge" ? [] : [REASON];
  fields.push({ name: "count", label: `To confirm, write the number: ${meant}`, required: true });
  await ask({
    title: `${name[0].toUpperCase()}${name.slice(1)} many`, danger: name !== "resume", action: `${name[0].toUpperCase()}${name.slice(1)} ${meant}`, fields,
    about: [h("p", null, "Dry run: ", h("strong", null, `${meant} instances`), ` would be meant by now (${shown || "all"}).`),
      h("p", null, "Those that match when it is done are meant; one that has ended by then is left alone.")],
    act: async (values) => {
      if (values.count.trim() !== String(meant)) throw new ApiError(0, "count", "This is not the number.");
      answer = await post(`bulk/${name}`, { filters, dry_run: false, reason: values.reason ?? "" });
    },
  });
  if (answer) notice(`${name}: ${answer.count} instances.`);
  return answer;
}

/** Start an orchestration. */
export async function start() {
  let answer = null;
  await ask({
    title: "Start an orchestration", action: "Start", about: "It is durable as soon as it is started, and runs once a worker has it.",
    fields: [
      { name: "orchestrator", label: "Orchestrator", required: true }, { name: "input", label: "Input, as JSON", kind: "json" },
      { name: "instance_id", label: "Instance id (empty: any)" }, { name: "tags", label: "Tags", hint: "NAME=VALUE, one per line", kind: "area" },
    ],
    act: async ({ orchestrator, input, instance_id, tags }) => {
      const pairs = tags.split("\n").filter((line) => line.includes("=")).map((line) => [line.slice(0, line.indexOf("=")).trim(), line.slice(line.indexOf("=") + 1).trim()]);
      answer = await post(`orchestrators/${segmentOf(orchestrator.trim())}`, { input, instance_id: instance_id || null, tags: Object.fromEntries(pairs) });
    },
  });
  return answer;
}

/** Write an id as a part of a path, as the server does. */
export function segmentOf(id) {
  if (/^[A-Za-z0-9_@:][A-Za-z0-9_@:.-]*$/.test(id)) return id;
  const raw = Array.from(new TextEncoder().encode(id), (byte) => String.fromCharCode(byte)).join("");
  return `~${btoa(raw).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "")}`;
}

