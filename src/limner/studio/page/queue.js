// The queue: its length, and how to pause it, resume it, move a job to the front, and cancel waiting jobs.

import { html } from "/page/vendor/preact.js";
import { ask } from "/page/api.js";
import { roughDuration } from "/page/parts.js";
import { askFirst, isMine, isOpen, set, showNotice, showProblem, showsMaps, state } from "/page/state.js";

/** The jobs that wait or run, in the order in which they are painted. */
export const sortOpenJobs = (jobs) => jobs.filter(isOpen).sort((a, b) => (a.state === "running" ? -1 : a.position ?? 1e9) - (b.state === "running" ? -1 : b.position ?? 1e9) || a.created - b.created);

async function pause(paused) {
  try {
    set({ paused: (await ask("PATCH", "/api/v1/queue", { paused })).paused });
    showNotice(paused ? "the queue is paused; running jobs are finished" : "the queue continues");
  } catch (error) {
    showProblem(error);
  }
}

/** Ask whether to cancel the waiting jobs of this browser. */
function clear(waiting) {
  const mine = waiting.filter(isMine);
  const what = mine.length > 1 ? `your ${mine.length} waiting jobs` : "your waiting job";
  askFirst(`Cancel ${what}?`, mine.length > 1 ? "Cancel them" : "Cancel it", () => ask("POST", "/api/v1/queue/clear", { jobs: mine.map((job) => job.id) }));
}

const many = (n, what) => `${n.toLocaleString("en")} ${what}${n === 1 ? "" : "s"}`;

/** Shown while several jobs are open, or the queue is paused. */
export function Queue() {
  const open = sortOpenJobs([...state.jobs.values()]).filter((job) => !showsMaps(job)), waiting = open.filter((job) => job.state === "queued");
  if (open.length < 2 && !state.paused) return null;
  const eta = state.paused ? null : Math.max(0, ...open.map((job) => job.progress?.eta ?? job.eta ?? 0));
  const pictures = open.reduce((sum, job) => sum + (job.params.n ?? 1), 0);
  return html`<section class="waiting" aria-label="Queue">
    <p>${state.paused && html`<b>Paused.</b> `}${open.length ? `${many(open.length, "job")}, ${many(pictures, "picture")}${eta ? `, about ${roughDuration(eta)}` : ""}` : "No jobs are waiting."}</p>
    <button type="button" class="quiet" onClick=${() => pause(!state.paused)}>${state.paused ? "Resume" : "Pause"}</button>
    ${waiting.some(isMine) && html`<button type="button" class="quiet" onClick=${() => clear(waiting)}>Cancel waiting jobs</button>`}
  </section>`;
}

/** A button that has a job painted next. */
export function ToFrontButton({ job }) {
  const first = sortOpenJobs([...state.jobs.values()]).find((each) => each.state === "queued");
  if (job.state !== "queued" || first?.id === job.id) return null;
  return html`<button type="button" class="quiet" onClick=${() => ask("POST", `/api/v1/jobs/${job.id}/front`).then(() => showNotice("the job is painted next")).catch(showProblem)}>To the front</button>`;
}
