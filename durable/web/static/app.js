// The page: who one is, where one is, and what stands above every page. Addresses are in the part behind #, so that the site can be
// mounted anywhere and the server serves one page.

import { introduce, isAdmin, post, session } from "./api.js";
import { fill, h, notice } from "./dom.js";
import { setZone, zone } from "./format.js";
import { auditPage } from "./audit.js";
import { entitiesPage } from "./entities.js";
import { instancePage } from "./instance.js";
import { instancesPage } from "./instances.js";
import { jobPage, jobsPage } from "./jobs.js";
import { overviewPage } from "./overview.js";
import { schedulesPage } from "./schedules.js";
import { workersPage } from "./workers.js";

const PAGES = [
  { path: /^\/$/, page: overviewPage, title: "Overview", link: "/", key: "o" },
  { path: /^\/instances$/, page: instancesPage, title: "Instances", link: "/instances", key: "i" },
  { path: /^\/instances\/([^/]+)$/, page: instancePage, title: "Instance", parent: "/instances" },
  { path: /^\/jobs$/, page: jobsPage, title: "Jobs", link: "/jobs", key: "j" },
  { path: /^\/jobs\/([^/]+)$/, page: jobPage, title: "Job tree", parent: "/jobs" },
  { path: /^\/schedules$/, page: schedulesPage, title: "Schedules", link: "/schedules", key: "s" },
  { path: /^\/entities$/, page: entitiesPage, title: "Entities", link: "/entities", key: "e" },
  { path: /^\/workers$/, page: workersPage, title: "Workers", link: "/workers", key: "w" },
  { path: /^\/audit$/, page: auditPage, title: "Audit", link: "/audit", key: "a", admin: true },
];

const main = document.getElementById("main");
let leave = [];
let turn = 0;

function where() {
  const hash = location.hash.startsWith("#/") ? location.hash.slice(1) : "/";
  const mark = hash.indexOf("?");
  const path = mark < 0 ? hash : hash.slice(0, mark);
  return { path, query: new URLSearchParams(mark < 0 ? "" : hash.slice(mark + 1)) };
}

async function show(isNew = true) {
  const mine = ++turn;
  for (const end of leave.splice(0)) end();
  const { path, query } = where();
  const found = PAGES.map((one) => ({ one, match: one.path.exec(path) })).find(({ match }) => match);
  drawNav(found?.one);
  if (!found) {
    fill(main, h("h1", null, "There is no such page"), h("p", null, h("a", { href: "#/" }, "To the overview")));
    return;
  }
  const context = {
    segment: found.match[1],
    query,
    /** What is to be ended when this page is left. */
    onLeave: (end) => (mine === turn ? leave.push(end) : end()),
    isCurrent: () => mine === turn,
    title: (text) => { document.title = `${text} · ${session.title}`; },
    /** Write the state of the page into its address, without a new page. */
    remember: (parameters) => {
      const text = new URLSearchParams(parameters.filter(([, value]) => value !== "" && value !== null && value !== undefined)).toString();
      history.replaceState(null, "", `#${path}${text ? `?${text}` : ""}`);
    },
    again: () => show(false),
  };
  context.title(found.one.title);
  try {
    const content = await found.one.page(context);
    if (mine !== turn) return;
    fill(main, content);
  } catch (error) {
    if (mine !== turn || error.name === "AbortError") return;
    if (error.status === 401) return login();
    fill(main, h("h1", null, found.one.title), h("p", { class: "error", role: "alert" }, error.message),
      h("p", null, h("button", { type: "button", onclick: () => show(false) }, "Try again")));
  }
  if (isNew) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

function drawNav(current) {
  const nav = document.getElementById("nav");
  nav.hidden = false;
  fill(nav, PAGES.filter((one) => one.link && (!one.admin || isAdmin())).map((one) =>
    h("a", { href: `#${one.link}`, "aria-current": current === one || current?.parent === one.link ? "page" : null }, one.title)));
}

function drawTools() {
  const tools = document.getElementById("tools");
  tools.hidden = false;
  const zones = h("button", { type: "button", class: "plain", title: "Times in the local zone or in UTC", onclick: () => { setZone(!zone.utc); fill(zones, zone.utc ? "UTC" : "Local"); } }, zone.utc ? "UTC" : "Local");
  const theme = h("button", { type: "button", class: "plain", title: "Light, dark, or as the system says", onclick: () => { nextTheme(); fill(theme, themeName()); } }, themeName());
  const who = h("span", { class: "who", title: session.read_only ? "This site only shows" : `You may act as ${session.role.toLowerCase()}` },
    session.name, h("small", null, session.read_only ? "read-only" : session.role.toLowerCase()));
  fill(tools, zones, theme, who, session.way === "session" ? h("button", { type: "button", class: "plain", onclick: logout }, "Log out") : null);
  fill(document.getElementById("site-title"), session.title);
}

const THEMES = ["auto", "light", "dark"];
const themeName = () => ({ auto: "Auto", light: "Light", dark: "Dark" })[localStorage.getItem("durable-theme") ?? "auto"] ?? "Auto";

function applyTheme() {
  const chosen = localStorage.getItem("durable-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
  else delete document.documentElement.dataset.theme;
}

function nextTheme() {
  const at = THEMES.indexOf(localStorage.getItem("durable-theme") ?? "auto");
  localStorage.setItem("durable-theme", THEMES[(at + 1) % THEMES.length]);
  applyTheme();
}

function login() {
  for (const end of leave.splice(0)) end();
  turn += 1;
  document.getElementById("nav").hidden = true;
  document.getElementById("tools").hidden = true;
  document.title = "Log in · durable";
  const token = h("input", { id: "token", type: "password", required: true, autocomplete: "off", spellcheck: "false" });
  const error = h("p", { class: "error", role: "alert" });
  const form = h("form", { class: "login card" }, h("h1", null, "Who are you?"),
    h("p", null, "Paste the token that you were given. It is sent once, and not kept in this browser."),
    h("div", { class: "field" }, h("label", { for: "token" }, "Token"), token), error,
    h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Log in")));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      await post("login", { token: token.value });
      token.value = "";
      await begin();
    } catch (problem) {
      fill(error, problem.message);
    }
  });
  fill(main, form);
  token.focus();
}

async function logout() {
  try {
    await post("logout", {});
  } catch (error) {
    notice(error.message, "error");
  }
  login();
}

async function begin() {
  try {
    await introduce();
  } catch (error) {
    if (error.status === 401) return login();
    fill(main, h("h1", null, "durable"), h("p", { class: "error", role: "alert" }, error.message),
      h("p", null, h("button", { type: "button", onclick: begin }, "Try again")));
    return;
  }
  drawTools();
  await show();
}

let goes = 0;
addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "/") {
    const field = document.getElementById("search");
    if (field) { field.focus(); event.preventDefault(); } else { location.hash = "#/instances"; }
  } else if (event.key === "g") {
    goes = Date.now();
  } else if (Date.now() - goes < 1500) {
    const page = PAGES.find((one) => one.key === event.key && (!one.admin || isAdmin()));
    if (page) location.hash = `#${page.link}`;
    goes = 0;
  }
});

document.getElementById("skip").addEventListener("click", (event) => { event.preventDefault(); main.focus(); });
addEventListener("hashchange", () => show());
applyTheme();
begin();
