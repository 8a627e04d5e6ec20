// The queue: its length, and how to pause it, resume it, move a job to the front, and cancel waiting jobs.

import { html } from "/page/vendor/preact.js";
import { ask } from "/page/api.js";
import { span } from "/page/parts.js";
import { isMine, isOpen, maps, question, say, set, state, trouble } from "/page/state.js";

/** The jobs that wait or run, in the order in which they are painted. */
export const inOrder = (jobs) => jobs.filter(isOpen).sort((a, b) => (a.state === "running" ? -1 : a.position ?? 1e9) - (b.state === "running" ? -1 : b.position ?? 1e9) || a.created - b.created);

async function pause(paused) {
  try {
    set({ paused: (await ask("PATCH", "/api/v1/queue", { paused })).paused });
    say(paused ? "the queue is paused; running jobs are finished" : "the queue continues");
  } catch (error) {
    trouble(error);
  }
}

/** Ask whether to cancel the waiting jobs of this browser. */
function clear(waiting) {
  const mine = waiting.filter(isMine);
  const what = mine.length > 1 ? `your ${mine.length} waiting jobs` : "your waiting job";
  question(`Cancel ${what}?`, mine.length > 1 ? "Cancel them" : "Cancel it", () => ask("POST", "/api/v1/queue/clear", { jobs: mine.map((job) => job.id) }));
}

const many = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

/** Shown while several jobs are open, or the queue is paused. */
export function Queue() {
  const open = inOrder([...state.jobs.values()]).filter((job) => !maps(job)), waiting = open.filter((job) => job.state === "queued");
  if (open.length < 2 && !state.paused) return null;
  const eta = state.paused ? null : Math.max(0, ...open.map((job) => job.progress?.eta ?? job.eta ?? 0));
  const pictures = open.reduce((sum, job) => sum + (job.params.n ?? 1), 0);
  return html`<section class="waiting" aria-label="Queue">
    <p>${state.paused && html`<b>Paused.</b> `}${open.length ? `${many(open.length, "job")}, ${many(pictures, "picture")}${eta ? `, about ${span(eta)}` : ""}` : "No jobs are waiting."}</p>
    <button type="button" class="quiet" onClick=${() => pause(!state.paused)}>${state.paused ? "Resume" : "Pause"}</button>
    ${waiting.some(isMine) && html`<button type="button" class="quiet" onClick=${() => clear(waiting)}>Cancel waiting jobs</button>`}
  </section>`;
}

/** A button that has a job painted next. */
export function ToFront({ job }) {
  const first = inOrder([...state.jobs.values()]).find((each) => each.state === "queued");
  if (job.state !== "queued" || first?.id === job.id) return null;
  return html`<button type="button" class="quiet" onClick=${() => ask("POST", `/api/v1/jobs/${job.id}/front`).then(() => say("the job is painted next")).catch(trouble)}>To the front</button>`;
}
