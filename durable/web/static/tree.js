// The ancestors of an instance, and all that it has started.

import { get } from "./api.js";
import { fill, h } from "./dom.js";
import { status, took } from "./format.js";
import { toInstance, why } from "./tables.js";

export async function treeView({ path, kind }) {
  const element = h("div", null);
  const load = async () => {
    const found = await get(`${path}/tree`, { kind });
    const lists = found.nodes.map(() => h("ul", { class: "tree" }));
    const top = h("ul", { class: "tree" });
    found.nodes.forEach((node, at) => (node.parent_index < 0 ? top : lists[node.parent_index]).append(h("li", null, line(node, at === 0), lists[at])));
    fill(element,
      found.ancestors.length ? h("ol", { class: "ancestors", "aria-label": "Ancestors" }, found.ancestors.map((one) => h("li", null, line(one)))) : null,
      top, found.is_cut ? h("p", { class: "none" }, "There are more; look at the children of one of them.") : null,
      found.nodes.length === 1 && !found.ancestors.length ? h("p", { class: "none" }, "It has no parent, and has started nobody.") : null);
  };
  await load();
  return { element, update: load };
}

function line(node, isHere = false) {
  return h("div", { class: isHere ? "node here" : "node", "aria-current": isHere ? "true" : null },
    status(node.status), toInstance(node), h("span", null, node.name), took(node.created_at, node.completed_at), why(node));
}
