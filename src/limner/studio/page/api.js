// The page's client of the API: requests, uploads, and the events of jobs.

/** An error in the server's format: code, message and hint. */
export class Problem extends Error {
  constructor({ code, message, hint }) {
    super(message);
    this.code = code;
    this.hint = hint;
  }
}

/** Whether the connection to the studio is lost; `changed` is called when it is lost and when it is back. */
export const connection = { lost: false, changed: () => {} };
const ASK_AGAIN = 1000, PATIENCE = 4000;
export const pause = () => new Promise((resolve) => setTimeout(resolve, ASK_AGAIN));
let asking = null;

async function look() {
  for (let away = false; ; away = true) {
    const there = await fetch("/healthz", { signal: AbortSignal.timeout(PATIENCE) }).then((answer) => answer.ok, () => false);
    if (there === connection.lost) connection.changed((connection.lost = !there));
    if (there) return away;
    await pause();
  }
}

/** Wait until the studio answers. Returns whether it was away. */
export const findStudio = () => (asking ??= look().finally(() => { asking = null; }));

export const AWAY = { code: "away", message: "the studio does not answer", hint: "is it still running?" };

/** Fetch; throws a problem if the studio does not answer. */
async function fetched(path, options) {
  try {
    return await fetch(path, options);
  } catch {
    findStudio();
    throw new Problem(AWAY);
  }
}

/** The JSON document of an answer; throws a problem if the answer is not the studio's, but that of a proxy or a crash. */
async function documentOf(answer) {
  try {
    const document = await answer.json();
    if (answer.ok || document.message) return document;
  } catch { /* no JSON */ }
  throw new Problem({ code: "http", message: `the studio answered with status ${answer.status}`, hint: "see what it printed, or try again" });
}

/** Send a request, with `body` as JSON. Tries again while the server is starting. */
export async function ask(method, path, body, headers = {}) {
  for (let attempt = 0; ; attempt++) {
    const answer = await fetched(path, {
      method,
      headers: body === undefined ? headers : { "Content-Type": "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    if (answer.status === 204) return null;
    const document = await documentOf(answer);
    if (answer.ok) return document;
    if (document.code !== "starting" || attempt > 30) throw new Problem(document);
    await new Promise((resolve) => setTimeout(resolve, 1000));
  }
}

export const get = (path) => ask("GET", path);

/** The result of `load`. If the studio does not answer, `report` gets the error, and `load` is called again when the studio is back. */
export async function untilReachable(load, report) {
  for (;;) {
    try {
      return await load();
    } catch (error) {
      if (error.code !== "away") throw error;
      report(error);
      if (!(await findStudio())) await pause();
    }
  }
}

/** Send a file. */
export async function send(path, file) {
  const answer = await fetched(path, { method: "POST", body: file });
  const document = await documentOf(answer);
  if (!answer.ok) throw new Problem(document);
  return document;
}

/** Send a picture. Returns its id, its size, and its settings if limner painted it. */
export const upload = (file) => send("/api/v1/assets", file);

const OVER = ["done", "failed", "cancelled"];
const STREAMS = 2; // a browser opens at most six connections to a host for all of its windows; some must stay free
const POLL = 1500;

/**
 * Follows jobs: the first few through their event streams, the rest by polling; a hidden page only polls.
 * `changed(id, part)` is called with what is new of a job, `troubled(problem)` with the reason why
 * no job continues, and `paused(whether)` with whether the queue is paused.
 */
export class Follower {
  constructor(changed, troubled, paused) {
    Object.assign(this, { changed, troubled, paused });
    this.jobs = new Map(); // id -> EventSource or null, in the order in which they came
    this.timer = null;
  }

  follow(id) {
    if (this.jobs.has(id)) return;
    this.jobs.set(id, null);
    this.fill();
  }

  fill() {
    const most = document.hidden ? 0 : STREAMS;
    for (const [place, [id, stream]] of [...this.jobs].entries()) {
      if (place >= most) stream?.close();
      this.jobs.set(id, place < most ? (stream ?? this.listen(id)) : null);
    }
    const waiting = this.jobs.size > most;
    if (waiting && !this.timer) this.timer = setInterval(() => this.poll(), POLL);
    if (!waiting && this.timer) this.timer = clearInterval(this.timer) ?? null;
  }

  listen(id) {
    const stream = new EventSource(`/api/v1/jobs/${id}/events`);
    const on = (name, use) => stream.addEventListener(name, (event) => use(JSON.parse(event.data)));
    on("queued", ({ position, eta }) => this.changed(id, { state: "queued", position, eta }));
    on("started", () => this.changed(id, { state: "running", position: null }));
    on("progress", (progress) => this.changed(id, { state: "running", progress }));
    on("frame", (frame) => this.changed(id, { frame }));
    on("paused", ({ paused }) => this.paused(paused));
    on("trouble", (trouble) => this.troubled(trouble.code ? trouble : null));
    for (const name of OVER) stream.addEventListener(name, () => this.ended(id));
    stream.addEventListener("error", () => {
      if (stream.readyState === EventSource.CLOSED && this.jobs.get(id) === stream) this.jobs.set(id, null); // a closed stream does not reconnect by itself
      findStudio();
    });
    return stream;
  }

  async poll() {
    const beyond = [...this.jobs].flatMap(([id, stream]) => (stream ? [] : [id]));
    const { jobs, paused } = await get("/api/v1/jobs").catch(() => ({ jobs: null }));
    if (!jobs) return;
    this.paused(paused);
    const known = new Map(jobs.map((job) => [job.id, job]));
    for (const id of beyond) {
      if (known.has(id)) this.changed(id, known.get(id));
      else this.ended(id);
    }
  }

  async ended(id) {
    this.jobs.get(id)?.close();
    this.jobs.delete(id);
    this.fill();
    try {
      this.changed(id, { ...(await get(`/api/v1/jobs/${id}`)), frame: null, progress: null });
    } catch (problem) {
      this.changed(id, { state: "failed", error: problem });
    }
  }
}
