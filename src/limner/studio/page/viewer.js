// A picture by itself: large, with how it was made and what can be done with it.

import { html, useEffect, useState } from "/page/vendor/preact.js";
import { get, untilReachable } from "/page/api.js";
import { readStored, writeStored } from "/page/kept.js";
import { asCommand, asCurl, asPython } from "/page/copy.js";
import { Icon, Link, NotFound, copyText, exactDuration, lazy, pictureTitle, useOnce } from "/page/parts.js";
import { Path, neighbours, path } from "/page/stage.js";
import { attentionJob, deletePictures, enlarge, enlargedView, enlarger, go, isOpen, pictureTasks, sendTo, showProblem, showUnlessUnknown, showsMaps, state, toggleFavourite, useSettings } from "/page/state.js";

/** The name of a value in the list of facts. */
const withSpaces = (name) => String(name).replaceAll("_", " ");
const isShown = (value) => value !== undefined && value !== null && value !== "";

function Facts({ picture, job, does }) {
  const own = picture.settings ?? {}, inputs = job?.inputs ?? {};
  const usual = Object.entries(does?.schema.properties ?? {}).map(([name, schema]) => [name, schema.default]);
  const from = (name) => inputs[name] && html`<${Link} to=${`/p/${inputs[name]}`} title="open it"><img class="pixels" src=${`/api/v1/assets/${inputs[name]}`} alt=${`the ${name}`} width="44" height="44" /></${Link}>`;
  const rows = [["Model", picture.model], ["Task", own.task && (does?.title ?? own.task)], ["Made from", from("image")], ["And", from("other")], ["Controls", own.controls?.join(", ")], ["Follows", from("hint")], ...[2, 3, 4].map((i) => ["And follows", from(`hint_${i}`)]), ["Changed from", from("parent")], ["Changes", own.changes?.join(", ")], ["Mask", from("mask")],
    ["Class", own.labels?.join(", ")], ["Negative prompt", own.negative], ["Seed", own.seed], ["Variation", own.vary || null],
    ...Object.entries({ ...(own.task ? Object.fromEntries(usual) : {}), ...own.options }), ...Object.entries(own.sampler ?? {}),
    ["Size", `${picture.width} × ${picture.height}`], ["Painted", new Date(picture.created * 1000).toLocaleString("en", { dateStyle: "medium", timeStyle: "short" })],
    ["Time", job?.notes ? `${exactDuration(job.notes.seconds)}${job.outputs.length > 1 ? ` for ${job.outputs.length}` : ""}` : null]];
  return html`<dl>${rows.filter(([, value]) => isShown(value)).map(([name, value]) => html`<div key=${name}><dt>${withSpaces(name)}</dt><dd>${typeof value === "object" && !Array.isArray(value) ? value : String(value)}</dd></div>`)}</dl>`;
}

/** The source and the result of an edit, one over the other, with a slider between them; `children` lie over both. */
export function Slider({ before, after, children }) {
  const [share, setShare] = useState(50);
  return html`<div class="compare">
    <img class="pixels" src=${after.url} alt="after" />
    <img class="pixels before" src=${before} alt="before" ref=${(image) => image?.style.setProperty("clip-path", `inset(0 ${100 - share}% 0 0)`)} />
    ${children}
    <input type="range" min="0" max="100" value=${share} aria-label="Before and after" onInput=${(e) => setShare(Number(e.target.value))} />
  </div>`;
}

const MAKES_ANOTHER_KIND = ["upscale", "translate"]; // tasks whose result is not what they take

/** What can be done with a picture, [task, title, model] each: by the model that painted it where it can, or by the chosen one. */
function offersFor(picture) {
  const painter = state.models.find((each) => each.name === picture.model);
  const own = pictureTasks(painter ?? {}).filter(([name]) => !MAKES_ANOTHER_KIND.includes(name)), known = own.map(([name]) => name);
  const others = pictureTasks().filter(([name]) => !known.includes(name));
  return [...own.map(([name, { title }]) => [name, title, painter.name]), ...others.map(([name, { title }]) => [name, title, state.form.model])];
}

/** A picture that is dimmed except where the model looked for a word. */
export function AttentionPicture({ picture, words, map }) {
  const light = (image) => {
    image?.style.setProperty("mask-image", `url(${map})`);
    image?.style.setProperty("-webkit-mask-image", `url(${map})`);
  };
  const size = { src: picture.url, width: picture.width, height: picture.height };
  return html`<div class="lit large"><img class=${map ? "pixels dim" : picture.smooth ? "" : "pixels"} alt=${words} ...${size} />
    ${map && html`<img class="pixels bright" alt="" ref=${light} ...${size} />`}</div>`;
}

/** The words of the prompt that the model knows; pointing at one shows its map. */
function Words({ job, chosen, choose }) {
  const [pinned, pin] = useState(null);
  if (job?.state === "failed") return html`<p class="problem">${job.error?.message}<span>${job.error?.hint}</span></p>`;
  if (!job?.outputs?.length) return html`<p class="hint" role="status">Looking …</p>`;
  return html`<div class="spoken" role="group" aria-label="Words of the prompt" onMouseLeave=${() => choose(pinned)}>
    ${job.outputs.map((map) => html`<button type="button" key=${map.id} aria-pressed=${pinned === map.url} class=${chosen === map.url ? "here" : ""}
      onMouseEnter=${() => choose(map.url)} onFocus=${() => choose(map.url)} onBlur=${() => choose(pinned)}
      onClick=${() => { const next = pinned === map.url ? null : map.url; pin(next); choose(next ?? map.url); }}>${map.settings.word}</button>`)}
    <p class="hint">Point at a word to highlight where the model looks for it; press the word to keep the highlight.</p>
  </div>`;
}

const SMALL = 128; // pixels of the longer side
const PATIENCE = 300; // milliseconds that a picture is shown before it is enlarged

/** Whether a picture is small, and the address of an enlarged view, made once nothing is being painted; none if `pixels` are wanted. */
function useEnlarged(picture, pixels) {
  const [larger, setLarger] = useState({}), small = picture && Math.max(picture.width, picture.height) <= SMALL && Boolean(enlarger());
  const busy = [...state.jobs.values()].some((job) => isOpen(job) && !showsMaps(job));
  useEffect(() => {
    if (!small || pixels || busy) return;
    let gone = false;
    const timer = setTimeout(() => enlargedView(picture).then((url) => gone || setLarger({ id: picture.id, url })), PATIENCE);
    return () => { gone = true; clearTimeout(timer); };
  }, [picture?.id, small, pixels, busy]);
  return [small, !pixels && larger.id === picture?.id ? larger.url : undefined];
}

const Steps = lazy("steps", "Steps", false);

export function Viewer({ id }) {
  const [page, setPage] = useState(null), [view, setView] = useState(""); // "compare", "way", "steps", or the picture alone
  const [looked, setLooked] = useState(null), [map, setMap] = useState(null);
  const show = (name) => { setView(view === name ? "" : name); setLooked(null); setMap(null); };
  useEffect(() => {
    setPage(null);
    show("");
    let gone = false;
    untilReachable(() => get(`/api/v1/history/${id}`), showProblem).then((answer) => gone || setPage(answer)).catch((error) => { if (!gone) { setPage({}); showUnlessUnknown(error); } });
    return () => { gone = true; };
  }, [id]);
  const [pixels, setPixels] = useState(() => readStored("limner-pixels") === "true");
  const [leaving, remove] = useOnce(async (picture, older) => { if (await deletePictures(picture)) go(older ? `/p/${older.id}` : "/"); });
  const [small, larger] = useEnlarged(page?.picture, pixels || leaving);
  if (!page) return html`<div class="viewer"></div>`;
  if (!page.picture) return html`<${NotFound} what="picture" />`;
  const { job } = page, picture = { ...page.picture, ...state.history.find((each) => each.id === id) };
  const [newer, older] = neighbours(id), request = job && { model: job.model, task: job.task, params: job.params, inputs: job.inputs };
  const does = state.models.find((each) => each.name === picture.model)?.tasks[picture.settings?.task ?? "paint"];
  const command = request && asCommand(request, does, picture), words = pictureTitle(picture);
  const use = (more) => { go("/"); useSettings(picture.settings, more).catch(showProblem); };
  const star = async () => {
    const mark = (favourite) => setPage((now) => (now?.picture?.id === picture.id ? { ...now, picture: { ...now.picture, favourite } } : now));
    mark(!picture.favourite);
    mark(await toggleFavourite(picture));
  };
  const able = job?.params.prompt && state.models.find((each) => each.name === job.model)?.tasks.attention;
  const see = () => {
    show("");
    if (!looked) attentionJob(picture, { model: job.model, params: { prompt: words } }).then(setLooked).catch(showProblem);
  };
  const edits = able && job.task === "paint" && state.models.find((each) => each.name === job.model).tasks.reword;
  const made = job?.inputs.image ?? job?.inputs.parent, source = made && `/api/v1/assets/${made}`;
  const offers = offersFor(picture).filter(([name]) => name !== "reword" || !edits);
  const enlarges = enlarger() && job?.task !== "upscale" && !pictureTasks().some(([name]) => name === "upscale");
  const steps = job?.task === "paint" && picture.settings?.sampler && state.models.find((each) => each.name === job.model)?.schema.properties.steps;
  return html`<article class="viewer" aria-label=${words}>
    <div class="frame">
      ${newer && html`<${Link} to=${`/p/${newer.id}`} class="turn left" aria-label="Newer picture"><${Icon} name="left" /></${Link}>`}
      ${source && view === "compare" ? html`<${Slider} before=${source} after=${picture} />`
        : view === "steps" ? html`<${Steps} key=${id} picture=${picture} job=${job} schema=${steps} words=${words} />`
        : view === "way" ? html`<${Path} pictures=${job.outputs} alt=${words} />` : html`<${AttentionPicture} picture=${larger && !looked ? { ...picture, url: larger, smooth: true } : picture} words=${words} map=${map} />`}
      ${older && html`<${Link} to=${`/p/${older.id}`} class="turn right" aria-label="Older picture"><${Icon} name="right" /></${Link}>`}
    </div>
    <div class="about">
      <h1 title=${words}>${words}</h1>
      <div class="go">
        <button type="button" class="paint" onClick=${() => use()}>Use settings</button>
        ${does?.several !== false && html`<button type="button" class="second" onClick=${() => use({ n: 6, vary: 0.4 })}>Variations</button>`}
        <button type="button" class="second square" aria-pressed=${picture.favourite} aria-label="Favourite" title="favourite" onClick=${star}><${Icon} name="star" filled=${picture.favourite} /></button>
      </div>
      ${(offers.length > 0 || edits || enlarges) && html`<div class="go">${edits && html`<${Link} to=${`/edit/${id}`} class="second button">Change words</${Link}>`}${offers.map(([name, title, by]) => html`<button type="button" class="second" key=${name} title=${`with ${by}`} onClick=${() => sendTo({ id: picture.id, url: picture.url, width: picture.width, height: picture.height }, name, by)}>${title}</button>`)}
        ${enlarges && html`<button type="button" class="second" onClick=${() => enlarge(picture)}>Make larger</button>`}</div>`}
      ${(small || source || able || steps || (job && path(job))) && html`<div class="views">
        ${small && html`<button type="button" class="quiet" aria-pressed=${pixels} title=${`small pictures are shown enlarged by ${enlarger().name}; their files are unchanged`} onClick=${() => { writeStored("limner-pixels", String(!pixels)); setPixels(!pixels); }}>True pixels</button>`}
        ${source && html`<button type="button" class="quiet" aria-pressed=${view === "compare"} onClick=${() => show("compare")}>${view === "compare" ? "The result alone" : "Before and after"}</button>`}
        ${job && path(job) && html`<button type="button" class="quiet" aria-pressed=${view === "way"} onClick=${() => show("way")}>${view === "way" ? "This picture alone" : "The whole path"}</button>`}
        ${steps && html`<button type="button" class="quiet" aria-pressed=${view === "steps"} onClick=${() => show("steps")}>${view === "steps" ? "The picture alone" : "More or fewer steps"}</button>`}
        ${able && html`<button type="button" class="quiet" aria-pressed=${Boolean(looked)} onClick=${see}>${looked ? "The picture alone" : "Where it looks"}</button>`}
      </div>`}
      ${looked && html`<${Words} job=${state.jobs.get(looked)} chosen=${map} choose=${setMap} />`}
      <${Facts} picture=${picture} job=${job} does=${does} />
      <div class="links">
        <a class="quiet" href=${`${picture.url}?download=true`} download><${Icon} name="down" /> PNG with its settings</a>
        <a class="quiet" href=${`${picture.url}?download=true&w=${Math.min(2048, 16 * picture.width)}`} download><${Icon} name="down" /> Enlarged PNG</a>
        <button type="button" class="quiet" onClick=${() => copyText(location.href, "the address is")}><${Icon} name="link" /> Copy the address</button>
        <button type="button" class="quiet danger" disabled=${leaving} onClick=${() => remove(picture, older)}><${Icon} name="trash" /> Delete</button>
      </div>
      ${request && html`<details class="more"><summary>As code</summary>
        ${[["Command line", command], ["Python", asPython(request)], ["curl", asCurl(request)]].filter(([, text]) => text).map(([name, text]) => html`<div class="code" key=${name}>
          <header><span>${name}</span><button type="button" class="quiet" aria-label=${`Copy as ${name}`} onClick=${() => copyText(text, `${name} is`)}><${Icon} name="copy" /> Copy</button></header>
          <pre tabindex="0">${text}</pre></div>`)}
      </details>`}
    </div>
  </article>`;
}
