// Talking to the API. Errors carry a sentence for people. A session's changes carry its CSRF token; a token itself is never kept.

export const session = { name: "", role: "", csrf: null, sees_payloads: true, read_only: false, title: "durable" };

const RANKS = { VIEWER: 1, OPERATOR: 2, ADMIN: 3 };

/** How far the server's clock is ahead of this one, in milliseconds; ages are told by the server's. */
export const clock = { ahead: 0 };

export class ApiError extends Error {
  constructor(status, code, message) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

export function may(role, changes = true) {
  return !(changes && session.read_only) && RANKS[session.role] >= RANKS[role];
}

export function isAdmin() {
  return session.role === "ADMIN";
}

/** Write parameters behind a path; those that are empty are left out, lists are repeated. */
export function withQuery(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "" && one !== false) query.append(name, one);
    }
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

async function call(method, path, body, signal) {
  const headers = {};
  if (method !== "GET") {
    headers["Content-Type"] = "application/json";
    if (session.csrf) headers["X-CSRF-Token"] = session.csrf;
  }
  let response;
  try {
    const content = method === "GET" || method === "DELETE" ? undefined : JSON.stringify(body ?? {});
    response = await fetch(`api/${path}`, { method, headers, body: content, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "unreachable", "The server does not answer.");
  }
  const date = Date.parse(response.headers.get("date") ?? "");
  if (date) {
    const ahead = date + 500 - Date.now();
    clock.ahead = Math.abs(ahead) > 2000 ? ahead : 0;
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    const error = answer?.error ?? { code: "error", message: `The server answered with ${response.status}.` };
    throw new ApiError(response.status, error.code, error.message);
  }
  return answer;
}

export const get = (path, parameters, signal) => call("GET", withQuery(path, parameters), null, signal);
export const post = (path, body) => call("POST", path, body);
export const remove = (path, parameters) => call("DELETE", withQuery(path, parameters));

/** Learn who one is. Raises an ApiError of 401 where nobody is known. */
export async function introduce() {
  const found = await get("session");
  Object.assign(session, found, { csrf: found.csrf_token });
  return session;
}

/** Listen to live updates; `on` maps kinds of events to functions. Returns what ends it. */
export function listen(path, on, onState = () => {}) {
  let source = null;
  let timer = 0;
  let ended = false;
  const open = () => {
    source = new EventSource(`api/${path}`);
    source.onopen = () => onState(true);
    source.onerror = () => {
      onState(false);
      source.close();
      if (!ended) timer = setTimeout(open, 3000);
    };
    for (const [kind, tell] of Object.entries(on)) {
      source.addEventListener(kind, (event) => tell(JSON.parse(event.data)));
    }
    source.addEventListener("full", () => { onState(false); source.close(); timer = setTimeout(open, 15000); });
  };
  open();
  return () => { ended = true; clearTimeout(timer); source?.close(); };
}
