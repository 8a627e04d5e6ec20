// The jobs that are being painted, and the pictures painted so far: the easel and the gallery.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { FramePicture, Icon, Link, caption, exactDuration, pictureTitle, roughDuration } from "/page/parts.js";
import { Queue, ToFrontButton, sortOpenJobs } from "/page/queue.js";
import { SelectablePicture, Selection } from "/page/select.js";
import { EXAMPLES, cancel, deletePictures, dismiss, filter, isOpen, loadMore, model, newPromptSettings, paint, paintWith, set, showProblem, showsMaps, state, surprise, toggleFavourite, updateForm, useSettings } from "/page/state.js";

/** A picture with buttons for what is done most often. */
function Tile({ picture, alt }) {
  const remove = async ({ currentTarget }) => {
    const own = currentTarget.closest(".tile"), next = own.nextElementSibling ?? own.previousElementSibling;
    if (await deletePictures(picture)) requestAnimationFrame(() => document.activeElement === document.body && next?.querySelector("a")?.focus({ preventScroll: true }));
  };
  return html`<figure class="tile">
    <${Link} to=${`/p/${picture.id}`} title=${alt}><img class="pixels" src=${picture.url} width=${picture.width} height=${picture.height} alt=${alt || "a picture"} loading="lazy" /></${Link}>
    <div class="over">
      <button type="button" aria-pressed=${picture.favourite} aria-label="Favourite" title="favourite" onClick=${() => toggleFavourite(picture)}><${Icon} name="star" filled=${picture.favourite} /></button>
      <button type="button" aria-label="Use its settings" title="use its settings" onClick=${() => useSettings(picture.settings)}><${Icon} name="again" /></button>
      <a href=${`${picture.url}?download=true`} download aria-label="Download" title="download"><${Icon} name="down" /></a>
      <button type="button" aria-label="Delete" title="delete" onClick=${remove}><${Icon} name="trash" /></button>
    </div>
  </figure>`;
}

/** The pictures before and after one in the gallery, which the arrows lead to. */
export function neighbours(id) {
  const place = state.history.findIndex((each) => each.id === id);
  return place < 0 ? [null, null] : [state.history[place - 1] ?? null, state.history[place + 1] ?? null];
}

/** The state of a job, in words. */
export function status(job) {
  if (job.state === "queued") {
    const before = job.position ? `${job.position} before it` : "next";
    return `waiting, ${before}${state.paused ? ", paused" : job.eta ? `, about ${roughDuration(job.eta)}` : ""}`;
  }
  const { step, steps, eta } = job.progress ?? {};
  if (job.state === "running" && steps) return `step ${step} of ${steps}, ${roughDuration(eta)} left`;
  if (job.state === "running") return "preparing";
  if (job.state === "done") return job.notes ? `painted in ${exactDuration(job.notes.seconds)}` : "painted";
  return job.state;
}

export function Pictures({ job, sizes }) {
  const words = caption(job), n = job.outputs?.length || job.frame?.pictures || job.params.n;
  return html`<div class=${`pictures of-${Math.min(n, 16)} ${sizes ?? ""}`}>
    ${job.outputs?.length
      ? job.outputs.map((picture) => html`<${Tile} key=${picture.id} picture=${picture} alt=${words} />`)
      : Array.from({ length: n }, (_, i) => html`<div class=${`tile forming ${job.frame ? "" : "blank"}`} key=${i}>
          ${job.frame && i < job.frame.pictures && html`<${FramePicture} frame=${job.frame} place=${i} label=${`${words}, forming`} />`}</div>`)}
  </div>`;
}

/** Whether a job's pictures lie one after the other on a path. */
export const path = (job) => job.outputs?.length > 1 && state.models.find((each) => each.name === job.model)?.tasks[job.task]?.shows === "path";

/** A path from picture to picture, with a slider along it. */
export function Path({ pictures, alt }) {
  const [at, setAt] = useState(0), place = Math.min(at, pictures.length - 1), here = pictures[place];
  return html`<div class="path">
    <${Link} to=${`/p/${here.id}`}><img class="pixels" src=${here.url} width=${here.width} height=${here.height} alt=${`${alt}, ${place + 1} of ${pictures.length}`} /></${Link}>
    <input type="range" min="0" max=${pictures.length - 1} value=${place} aria-label="Along the path" aria-valuetext=${`picture ${place + 1} of ${pictures.length}`} onInput=${(e) => setAt(Number(e.target.value))} />
    <div class="strip" aria-hidden="true">${pictures.map((each, i) => html`<img key=${each.id} class=${i === place ? "pixels here" : "pixels"} src=${each.url} alt="" onClick=${() => setAt(i)} />`)}</div>
  </div>`;
}

const TYPED = /; type limner .*$/; // what to type on the command line, at the end of a remark

/** A model that suits a job better, with a button that paints with it. */
function Suggestion({ job, suggestion: { reason, model: name, sampler } }) {
  const [isSent, setSent] = useState(false); // a second click paints nothing twice
  const send = async () => { setSent(true); setSent(await paintWith(job, name, sampler)); };
  const paints = job.task === "paint" && state.models.some((each) => each.name === name);
  return html`<p class="hint">${reason}${paints && html` <button type="button" class="link" disabled=${isSent} onClick=${send}>Paint with ${name}</button>`}</p>`;
}

function Job({ job }) {
  const open = isOpen(job);
  if (job.state === "done" && !job.outputs?.length) return null;
  const { step = 0, steps = 0 } = job.progress ?? {}, { remarks = [], suggestion } = job.notes ?? job.progress ?? {};
  return html`<article class=${`job ${job.state}`} aria-label=${caption(job)}>
    <header><h2 title=${caption(job)}>${caption(job)}</h2><p><span>${status(job)}</span>
      ${open ? html`<${ToFrontButton} job=${job} /><button type="button" class="quiet" onClick=${() => cancel(job.id)}>Cancel</button>`
        : html`<button type="button" class="bare" aria-label="Dismiss" title="dismiss; it stays in the gallery" onClick=${() => dismiss(job.id)}><${Icon} name="close" /></button>`}</p></header>
    ${(job.state === "running" || job.state === "done") && html`<progress class=${job.state === "running" ? "" : "still"} max=${steps || 1} value=${steps ? step : undefined} aria-label="progress"></progress>`}
    ${job.error && html`<p class="problem">${job.error.message}${job.error.hint && html`<span>${job.error.hint}</span>`}</p>`}
    ${remarks.map((line) => html`<p class="hint" key=${line}>${line.replace(TYPED, "")}</p>`)}
    ${suggestion && html`<${Suggestion} job=${job} suggestion=${suggestion} />`}
    ${(job.state === "running" || job.state === "done") && (path(job) ? html`<${Path} pictures=${job.outputs} alt=${caption(job)} />` : html`<${Pictures} job=${job} />`)}
  </article>`;
}

function Welcome() {
  const of = model();
  const take = (prompt) => { updateForm({ prompt, ...newPromptSettings() }); paint(); };
  return html`<section class=${state.total ? "welcome known" : "welcome"}>
    <h2>What shall we paint?</h2>
    <p>${of?.text !== false ? "Type a few words" : of.labels.length ? "Choose a class" : "Press Paint"} and watch the picture form. Everything happens on this machine.</p>
    ${of?.text !== false && html`<div class="examples">${EXAMPLES.map(([prompt, file]) => html`<button type="button" key=${prompt} onClick=${() => take(prompt)}>
      <img class="pixels" src=${`/page/examples/${file}.png`} alt="" width="64" height="64" /><span>${prompt}</span></button>`)}</div>`}
    <p class="hint">Or <button type="button" class="link" onClick=${surprise}>be surprised</button>, or drop one of limner's PNG files anywhere on this page to restore its settings.</p>
  </section>`;
}

const DAYS = [[0, "Any time"], [1, "Last day"], [7, "Last week"], [31, "Last month"]];

function Tools() {
  const own = state.filter, names = [...new Set([...state.models.map((each) => each.name), own.model])].filter(Boolean);
  return html`<div class="tools">
    <input type="search" aria-label="Search" placeholder="Search" value=${own.search} onInput=${(e) => filter({ search: e.target.value })} />
    <button type="button" class="second" aria-pressed=${own.favourite} onClick=${() => filter({ favourite: !own.favourite })}><${Icon} name="star" filled=${own.favourite} /> Favourites</button>
    <select aria-label="Painted by" value=${own.model} onChange=${(e) => filter({ model: e.target.value })}>
      <option value="">Any model</option>${names.map((name) => html`<option key=${name} value=${name}>${name}</option>`)}</select>
    <select aria-label="Painted when" value=${own.days} onChange=${(e) => filter({ days: Number(e.target.value) })}>${DAYS.map(([n, title]) => html`<option key=${n} value=${n}>${title}</option>`)}</select>
    <select aria-label="Order" value=${String(own.oldest)} onChange=${(e) => filter({ oldest: e.target.value === "true" })}><option value="false">Newest first</option><option value="true">Oldest first</option></select>
    <button type="button" class="second" aria-pressed=${Boolean(state.selected)} onClick=${() => set({ selected: state.selected ? null : new Set() })}>Select</button>
  </div>`;
}

function Gallery() {
  const { history, total, filter: own, selected } = state;
  const sought = own.search || own.favourite || own.model || own.days;
  if (!total && !sought) return null;
  return html`<section class="gallery" aria-label="Gallery">
    <header><h2>Gallery <small>${total.toLocaleString("en")}</small></h2><${Tools} /></header>
    ${selected && html`<${Selection} pictures=${history} />`}
    ${history.length ? html`<div class="wall">${history.map((picture) => (selected ? html`<${SelectablePicture} key=${picture.id} picture=${picture} alt=${pictureTitle(picture)} />` : html`<${Tile} key=${picture.id} picture=${picture} alt=${pictureTitle(picture)} />`))}</div>`
      : html`<p class="hint">No ${own.favourite ? "favourites" : "pictures"} match.</p>`}
    ${history.length < total && html`<button type="button" class="second more-of" onClick=${() => loadMore().catch(showProblem)}>Show more</button>`}
  </section>`;
}

const SHOWN = 6;

export function Stage() {
  const jobs = [...state.jobs.values()].filter((job) => !job.board && !showsMaps(job)).reverse();
  const open = sortOpenJobs(jobs);
  const over = jobs.filter((job) => (job.fresh || job.watched) && !open.includes(job) && job.state !== "cancelled");
  const [all, showAll] = useState(false), shown = [...open, ...over].slice(0, all ? Math.max(SHOWN, open.length) : SHOWN);
  const top = useRef(null), newest = jobs[0]?.id;
  useEffect(() => {
    const from = top.current.getBoundingClientRect().top;
    if (jobs[0]?.fresh && !jobs[0].inputs?.hint && (from < 0 || from > innerHeight / 2)) top.current.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
  }, [newest]);
  return html`<div class="stage">
    ${state.trouble && html`<p class="problem" role="status">Nothing is painted at present: ${state.trouble.message}<span>${state.trouble.hint}</span></p>`}
    <${Queue} />
    <div id="easel" ref=${top} aria-busy=${open.length > 0}>
      ${shown.map((job) => html`<${Job} key=${job.id} job=${job} />`)}
      ${open.length > SHOWN && html`<p class="hint">${all ? "" : `${open.length - SHOWN} more wait. `}<button type="button" class="link" onClick=${() => showAll(!all)}>${all ? "Show fewer" : "Show them"}</button></p>`}
      ${!shown.length && html`<${Welcome} />`}
    </div>
    <${Gallery} />
  </div>`;
}
