// The state of the page, in one place; views are notified when it changes.

import { Follower, Problem, ask, get, pause, untilReachable, upload } from "/page/api.js";
import { addOwnJob, applyStyle, keepPrompt, ownJobs, readForm, readStored, writeStored } from "/page/kept.js";
import { checkSettings, inputsOf, namedControls } from "/page/settings.js";

const KEPT = "limner-wish", KEPT_AXES = "limner-axes";
export const EXAMPLES = [
  ["a green heart", "ex-0"], ["a sailing boat", "ex-1"], ["a golden crown", "ex-2"], ["a monkey eating a banana", "ex-3"],
  ["a joyful face", "ex-4"], ["a snowy mountain", "ex-5"], ["an automobile", "ex-6"], ["a sad cloud with rain", "ex-7"],
];
const SURPRISES = {
  how: ["", "", "", "red", "blue", "green", "golden", "purple", "happy", "sleepy", "big"],
  what: ["apple", "cat", "dog", "owl", "fox", "penguin", "octopus", "butterfly", "mushroom", "cactus", "sunflower", "cherry", "pizza", "cake",
    "ice cream", "rocket", "bicycle", "train", "sailing boat", "guitar", "umbrella", "crown", "key", "lantern", "castle", "rainbow", "volcano", "moon"],
};

const BLANK = {
  model: "", task: "paint", prompt: "", negative: "", label: "", n: 4, seed: 0, locked: false, borrowed: false, vary: 0, dtype: "float32", size: "",
  sampler: {}, options: {}, inputs: {}, changes: [], controls: [], style: "",
};

/** The axes of the grid as they were left, each {key, text} or null. */
function rememberedAxes() {
  try {
    const kept = JSON.parse(readStored(KEPT_AXES) ?? "[]");
    return [0, 1, 2].map((i) => (typeof kept[i]?.key === "string" && typeof kept[i].text === "string" ? { key: kept[i].key, text: kept[i].text } : null));
  } catch {
    return [null, null, null];
  }
}

export const state = {
  models: [], broken: {}, ready: false, limits: {},
  form: readForm(KEPT, BLANK), // as it was left
  axes: rememberedAxes(),
  jobs: new Map(), // jobs of this visit and jobs that wait or run, by id
  history: [], total: 0, filter: { search: "", model: "", favourite: false, days: 0, oldest: false },
  selected: null, // the ids of the selected pictures, while pictures can be selected
  route: { name: "home" },
  problem: null, notice: "", undo: null, question: null,
  trouble: null, // why nothing is painted at present
  paused: false, // whether the queue is paused
  lost: false, // whether the studio does not answer
};

const listeners = new Set();
let due = false;

export function subscribe(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** Change the state; listeners are called once for all changes made in the same turn of the event loop. */
export function set(patch) {
  Object.assign(state, patch);
  if (due) return;
  due = true;
  queueMicrotask(() => {
    due = false;
    listeners.forEach((listener) => listener());
  });
}

/** Change the form. This clears the shown problem, unless it is passed as `problem` by an automatic change. */
export function updateForm(patch, problem = null) {
  const next = { ...state.form, ...patch };
  writeStored(KEPT, JSON.stringify(next));
  set({ form: next, problem });
}

/** Set the axes of the grid. */
export function setAxes(axes) {
  writeStored(KEPT_AXES, JSON.stringify(axes));
  set({ axes });
}

export const model = () => state.models.find((each) => each.name === state.form.model);
export const task = () => model()?.tasks[state.form.task];

/** Show what went wrong; an error that is not a `Problem` is a bug, and is logged to the console, too. */
export function showProblem(error) {
  if (error instanceof Problem) {
    set({ problem: { message: error.message, hint: error.hint } });
    return;
  }
  console.error(error);
  const message = `the page made a mistake: ${error?.message ?? error}`;
  if (state.problem?.message !== message) set({ problem: { message, hint: "reload it; if it happens again, report this line" } });
}

/** Show why something could not be loaded, unless it does not exist, which its view says. */
export const showUnlessUnknown = (error) => { if (error.code !== "unknown") showProblem(error); };

let fading = null;

const MOMENT = 3500;
export const LONG = 10_000; // milliseconds

/** Show a notice for a moment; with `undo`, it has a button that undoes the action. */
export function showNotice(notice, undo = null, time = undo ? LONG : MOMENT) {
  set({ notice, undo });
  clearTimeout(fading);
  fading = setTimeout(() => set({ notice: "", undo: null }), time);
}

/** Ask before an action that cannot be undone. */
export function askFirst(text, yes, act) {
  set({ question: { text, yes, act, from: document.activeElement } });
}

/** Empty the form, so that its content cannot break the page. */
export function forgetForm() {
  updateForm({ ...BLANK, model: state.models[0]?.name ?? "" });
  setAxes([null, null, null]);
  set({ history: state.history ?? [] });
}

// Models --------------------------------------------------------------------------------------

const AT_START = 1000, NOW_AND_THEN = 5000;
let lookingAgain = null;

/** Load the list of models, and reload it regularly: new runs also come from the command line and other programs. */
export async function loadModels() {
  clearTimeout(lookingAgain);
  try {
    const { models, broken, ready, trouble: why, limits } = await get("/api/v1/models");
    const same = JSON.stringify(models) === JSON.stringify(state.models);
    set({ models: same ? state.models : models, broken, ready, trouble: why, limits });
  } finally {
    clearTimeout(lookingAgain);
    lookingAgain = setTimeout(reloadModels, state.models.length && state.ready ? NOW_AND_THEN : AT_START);
  }
  if (state.models.length && !model()) choose(state.models[0].name);
  if (model() && !isFormClean) cleanForm(); // before anything is typed
}

/** Reload the models, unless the page is hidden; a failure is not shown, because it is tried again. */
function reloadModels() {
  if (document.hidden) lookingAgain = setTimeout(reloadModels, NOW_AND_THEN);
  else loadModels().catch(() => {});
}

let isFormClean = false;

/** Remove from the form what its model does not take, once: the form may be from an earlier visit. */
function cleanForm() {
  isFormClean = true;
  const own = state.form, [fit, left] = checkSettings(own, model(), state.limits, state.models);
  const inputs = Object.fromEntries(Object.entries(own.inputs).filter(([, input]) => typeof input?.id === "string" && typeof input.url === "string"));
  if (left.length || !task() || Object.keys(inputs).length < Object.keys(own.inputs).length) updateForm({ ...fit, inputs });
}

export function choose(name) {
  const next = state.models.find((each) => each.name === name);
  if (!next) return;
  const kept = Object.fromEntries(Object.entries(state.form.sampler).filter(([key]) => key in next.schema.properties));
  const label = next.labels.includes(state.form.label) ? state.form.label : "";
  updateForm({ model: name, task: next.tasks[state.form.task] ? state.form.task : "paint", sampler: kept, label });
  setControls(namedControls(state.form.controls, next, state.models).map((each) => each.name));
  setAxes([null, null, null]);
}

// Painting ------------------------------------------------------------------------------------

export const randomSeed = () => Math.floor(Math.random() * 2 ** 31);

/** The models that follow hints: the chosen one, if it was trained with hints, and the controls on top of it. */
export function hintModels(names = state.form.controls) {
  const of = model();
  if (!of || state.form.task !== "paint") return [];
  return [...(of.hint ? [of] : []), ...namedControls(names, of, state.models)];
}

/** The name of the input that holds the hint of one of several models, by its place. */
export const hintName = (place) => (place ? `hint_${place + 1}` : "hint");

/** The schema of the sampler's options: that of the first model in `hints`, if there is one. */
export const options = (hints = hintModels()) => (hints[0] ?? model())?.schema ?? { properties: {} };

/** Set the controls on top of the model; settings that no longer fit are removed from the form. */
export function setControls(names, { sampler = state.form.sampler, inputs = state.form.inputs } = {}) {
  const hints = hintModels(names), known = options(hints).properties, places = hints.map((_, i) => hintName(i));
  const keep = (values, good) => Object.fromEntries(Object.entries(values).filter(([name]) => good(name)));
  updateForm({
    controls: names,
    sampler: keep(sampler, (name) => name in known && (name !== "control_weights" || hints.length > 1)),
    inputs: keep(inputs, (name) => !name.startsWith("hint") || places.includes(name)),
  });
}

/** The pictures that the task takes: the name of each, and whether it is required. */
export function inputs() {
  const does = task(), of = model();
  const wanted = Object.entries(does?.inputs ?? {}).map(([name, { required }]) => [name, required]);
  const hints = hintModels();
  hints.forEach((_, i) => wanted.push([hintName(i), hints.length > 1 || !of.hint || of.condition === "required"]));
  return wanted.sort(([a], [b]) => (b === "mask") - (a === "mask"));
}

/** Whether a picture must be given first. */
export const lacksInput = () => inputs().some(([name, required]) => required && !state.form.inputs[name]);

/** The size to paint: the chosen one, or that of the picture to change, if the model has it; empty for the model's own. */
export function sizeOf() {
  const of = model(), { size, inputs: pictures } = state.form;
  if (!task()?.sized || hintModels().length) return "";
  const chosen = [size, pictures.image && `${pictures.image.height}x${pictures.image.width}`].find((each) => of.sizes.includes(each));
  return chosen && chosen !== of.sizes[0] ? chosen : "";
}

/** The request that the form makes. */
export function request() {
  const { form: own } = state, of = model(), does = task();
  const changes = own.task === "paint" && of.tasks.reword ? own.changes : [];
  const hints = hintModels(), places = hints.map((_, i) => hintName(i)), controls = hints.slice(of.hint ? 1 : 0).map((each) => each.name);
  const takes = (name) => name in does.inputs || places.includes(name) || (name === "parent" && changes.length > 0);
  const fits = Object.fromEntries(Object.entries(own.inputs).filter(([name, input]) => input && takes(name)));
  const [prompt, negative] = of.text ? applyStyle(own.prompt.trim(), own.negative.trim(), own.style) : ["", ""];
  return {
    model: own.model,
    task: own.task,
    params: {
      prompt,
      negative,
      label: of.labels.length ? own.label : "",
      n: does.several ? own.n : 1,
      seed: own.seed,
      vary: does.several ? own.vary : 0,
      dtype: own.dtype,
      size: sizeOf(),
      sampler: own.sampler,
      changes,
      ...(controls.length ? { controls } : {}),
      options: Object.fromEntries(Object.entries(own.options).filter(([key]) => key in does.schema.properties)),
    },
    inputs: Object.fromEntries(Object.entries(fits).map(([name, input]) => [name, input.id])),
  };
}

/** A random id of 128 bits, so that it is unique. `crypto.randomUUID` needs a secure context, which plain http on a LAN is not. */
const freshId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

export async function submit(job, key = freshId()) {
  const accepted = await ask("POST", "/api/v1/jobs", job, { "Idempotency-Key": key });
  changed(accepted.id, { ...job, board: job.board ?? null, ...accepted, outputs: [], created: Date.now() / 1000, fresh: true });
  follower.follow(accepted.id);
  addOwnJob(accepted.id);
  return accepted;
}

/** The request that paints one picture of a job again, alone; a variation needs all pictures of its row. */
export function repaintRequest({ settings }, { model: name, task: does, params, inputs }) {
  const { seed = params.seed, vary = 0, n } = settings ?? {};
  return { model: name, task: does, params: { ...params, seed, vary, n: vary ? n : 1 }, inputs };
}

/** Choose another model with options of its sampler, and paint a job again with it. Return whether the job was accepted. */
export async function paintWith({ params, inputs }, name, sampler) {
  choose(name);
  updateForm({ sampler, size: "" });
  try {
    await submit({ model: name, task: "paint", params: { ...params, sampler, size: "" }, inputs });
    return true;
  } catch (error) {
    showProblem(error);
    return false;
  }
}

/** The place of the picture among those that such a request paints. */
export const pictureIndex = ({ settings, place }) => (settings?.vary ? place : 0);

/** Functions that must run before a job is submitted, such as one that sends a mask that was just brushed. */
export const beforeSubmit = new Set();

const runBeforeSubmit = async () => { for (const save of beforeSubmit) await save(); };

/** Paint what the form says. */
export async function paint() {
  if (!model()) return;
  try {
    await runBeforeSubmit();
    if (lacksInput()) return;
    if (!state.form.locked) updateForm({ seed: randomSeed() });
    if (model().text) keepPrompt(state.form.prompt.trim());
    for (const each of eachWithItsWords(request())) await submit(each);
    if (state.route.name !== "home") go("/");
  } catch (error) {
    showProblem(error);
  }
}

const CHOICES = /\{[^{}]*\|[^{}]*\}|__[a-z0-9]+(?:-[a-z0-9]+)*__/;

/** The requests for one: a request for each picture if the seed chooses words, as in `{red|blue}` or `__colour__`. The studio makes the choice. */
function eachWithItsWords(job) {
  const { n, seed, vary, prompt } = job.params;
  if (n === 1 || vary || !CHOICES.test(prompt)) return [job];
  return Array.from({ length: n }, (_, i) => ({ ...job, params: { ...job.params, n: 1, seed: seed + i } }));
}

/** Paint a grid, with a job for each cell, and show it. */
export async function paintGrid(requests) {
  const board = freshId();
  try {
    await runBeforeSubmit();
    go(`/grid/${board}`);
    for (const each of requests()) {
      const key = freshId();
      while (!(await submit({ ...each, board }, key).catch(showQueueFull))) {
        if (state.route.id !== board) return;
        await pause();
      }
    }
    if (state.problem?.hint === GRID_NOTE) set({ problem: null });
  } catch (error) {
    showProblem(error);
  }
}

const GRID_NOTE = "the rest of the grid follows as jobs are done, while this page is open";

/** Show that the queue is full; other errors are thrown again. */
function showQueueFull(error) {
  if (error.code !== "full") throw error;
  set({ problem: { message: error.message, hint: GRID_NOTE } });
}

/** Whether a job waits or runs. */
export const isOpen = (job) => job?.state === "queued" || job?.state === "running";

/** Whether a job's pictures are maps over another picture, which are not shown on the easel. */
export const showsMaps = (job) => state.models.find((each) => each.name === job.model)?.tasks[job.task]?.shows === "maps";

/** A promise of a job, which resolves when the job is over. */
export const jobDone = (id) => new Promise((resolve) => {
  const seen = () => {
    const job = state.jobs.get(id);
    if (isOpen(job)) return;
    listeners.delete(seen);
    resolve(job ?? {});
  };
  subscribe(seen);
  seen();
});

/** The hint made from a picture, in the form that a model was trained with. */
export async function makeHint(picture, name) {
  const { id } = await submit({ model: name, task: "outline", params: { sampler: {}, options: {} }, inputs: { image: picture.id } });
  const { outputs, error } = await jobDone(id);
  if (!outputs?.length) throw new Problem(error ?? { message: "the hint of the picture was not made", hint: "drop the picture again" });
  return outputs[0];
}

/** The id of the job that finds where a model looked for each word of a picture; it is submitted once. */
export async function attentionJob(picture, { model: name, params }) {
  const job = { model: name, task: "attention", params: { prompt: params.prompt, sampler: {}, options: {} }, inputs: { image: picture.id } };
  const { id, state: how } = await submit(job, `look-${picture.id}`);
  return how === "failed" || how === "cancelled" ? (await submit(job)).id : id;
}

/** The model that enlarges pictures: the bundled one that `limner upscale` uses, or else the first that can. */
export const enlarger = () => state.models.find((each) => each.name === "upscaler") ?? state.models.find((each) => each.tasks?.upscale);

/** Enlarge a picture, and show the result. */
export async function enlarge(picture) {
  try {
    const { id } = await submit({ model: enlarger().name, task: "upscale", params: { sampler: {}, options: {} }, inputs: { image: picture.id } });
    const { outputs, error } = await jobDone(id);
    if (!outputs?.length) throw new Problem(error ?? { message: "the picture was not enlarged", hint: "try again" });
    go(`/p/${outputs[0].id}`);
  } catch (error) {
    showProblem(error);
  }
}

const views = new Map(); // addresses of enlarged views, by the picture's id

/** The address of an enlarged view of a small picture, which is made once, without notices; undefined if that fails. */
export async function enlargedView(picture) {
  const job = { model: enlarger().name, task: "enlarge", params: { sampler: {}, options: {} }, inputs: { image: picture.id } };
  for (const key of [`larger-${picture.id}`, freshId()]) { // the second key is used if the picture of the first was deleted
    if (views.has(picture.id)) break;
    const { state: how, outputs } = await submit(job, key).then(({ id }) => jobDone(id).then(() => get(`/api/v1/jobs/${id}`))).catch(() => ({}));
    if (outputs?.length) views.set(picture.id, outputs[0].url);
    if (how !== "done") break;
  }
  return views.get(picture.id);
}

export async function surprise() {
  const pick = (list) => list[Math.floor(Math.random() * list.length)];
  const of = model();
  if (of?.labels.length) updateForm({ label: pick(of.labels), ...newPromptSettings() });
  if (of?.text) {
    const words = `${pick(SURPRISES.how)} ${pick(SURPRISES.what)}`.trim();
    updateForm({ prompt: `${/^[aeiou]/.test(words) ? "an" : "a"} ${words}`, ...newPromptSettings() });
  }
  await paint();
}

export async function cancel(id) {
  await ask("DELETE", `/api/v1/jobs/${id}`).catch(showProblem);
}

/** Whether a job was submitted in this browser. */
export const isMine = (job) => job.fresh || ownJobs().includes(job.id);

/** The jobs of this browser that wait or run. */
export const ownOpenJobs = () => [...state.jobs.values()].filter((job) => isOpen(job) && isMine(job) && !showsMaps(job));

/** Ask whether to cancel all jobs of this browser, if there are any. */
export function cancelAll() {
  const open = ownOpenJobs();
  if (!open.length) return;
  const what = open.length > 1 ? `your ${open.length} jobs` : "your job";
  askFirst(`Cancel ${what}?`, "Cancel " + (open.length > 1 ? "them" : "it"), () => Promise.all(open.map((job) => cancel(job.id))));
}

/** Note why nothing is painted, or null when painting continues. */
function troubled(why) {
  set({ trouble: why });
  if (why) loadModels().catch(showProblem); // which is repeated until the trouble is over
}

// Jobs ----------------------------------------------------------------------------------------

function changed(id, part) {
  const job = { ...state.jobs.get(id), ...part };
  const jobs = new Map(state.jobs).set(id, job);
  set({ jobs });
  if (part.state === "done" && part.outputs?.length) loadHistory().catch(showProblem);
}

export const follower = new Follower(changed, troubled, (paused) => paused !== state.paused && set({ paused }));

/** Load the jobs that wait or run, for a page that was just opened or reconnected. */
export async function loadJobs() {
  const { jobs, paused } = await get("/api/v1/jobs");
  set({ paused });
  for (const job of jobs) {
    changed(job.id, { ...job, watched: true });
    follower.follow(job.id);
  }
}

export async function loadBoard(board) {
  const { jobs } = await untilReachable(() => get(`/api/v1/jobs?board=${encodeURIComponent(board)}`), showProblem);
  for (const job of jobs) {
    changed(job.id, { ...state.jobs.get(job.id), ...job });
    if (isOpen(job)) follower.follow(job.id);
  }
}

export function dismiss(id) {
  const jobs = new Map(state.jobs);
  jobs.delete(id);
  set({ jobs });
}

// Pictures ------------------------------------------------------------------------------------

const PAGE = 48;

function query(before) {
  const { search, model: by, favourite, days, oldest } = state.filter;
  const query = new URLSearchParams({ search, model: by, favourite, oldest, limit: PAGE });
  if (days) query.set("since", Math.round(Date.now() / 1000 - days * 86_400));
  if (before) query.set("before", before);
  return `/api/v1/history?${query}`;
}

let latest = 0, shown = null; // the filter whose pictures are shown

/** Load the first pictures of the gallery; the pictures shown after them stay, if there is no gap between. */
export async function loadHistory() {
  const mine = ++latest, own = state.filter;
  const { pictures, total } = await get(query());
  if (mine !== latest) return;
  const ids = new Set(pictures.map(({ id }) => id)), last = pictures.at(-1)?.number;
  const joined = own === shown && pictures.length === PAGE && state.history.some(({ id }) => ids.has(id));
  const after = joined ? state.history.filter(({ number }) => (own.oldest ? number > last : number < last)) : [];
  shown = own;
  set({ history: [...pictures, ...after], total });
}

let growing = null; // the filter whose next pictures are being loaded

export async function loadMore() {
  const own = state.filter, last = state.history.at(-1)?.number;
  if (growing === own) return;
  growing = own;
  try {
    const { pictures } = await get(query(last));
    if (own === state.filter && last === state.history.at(-1)?.number) set({ history: [...state.history, ...pictures] });
  } finally {
    if (growing === own) growing = null;
  }
}

export function filter(patch) {
  set({ filter: { ...state.filter, ...patch } });
  loadHistory().catch(showProblem);
}

function everywhere(id, change) {
  const jobs = new Map([...state.jobs].map(([key, job]) => [key, job.outputs ? { ...job, outputs: job.outputs.flatMap((each) => (each.id === id ? change(each) : [each])) } : job]));
  set({ history: state.history.flatMap((each) => (each.id === id ? change(each) : [each])), jobs });
}

/** Remove a picture from the page. */
function withdraw(id) {
  const listed = state.history.some((each) => each.id === id);
  everywhere(id, () => []);
  if (listed) set({ total: Math.max(0, state.total - 1) });
}

/** Show why an action on a picture failed; a picture that is gone, for example deleted in another browser, is removed from the page. */
function refused(id, error) {
  if (error.code === "unknown") withdraw(id);
  showProblem(error);
}

/** Make a picture a favourite, or no longer. Returns whether it is one. */
export async function toggleFavourite({ id, favourite }) {
  const mark = (on) => everywhere(id, (each) => [{ ...each, favourite: on }]);
  mark(!favourite);
  try {
    await ask("PATCH", `/api/v1/history/${id}`, { favourite: !favourite });
    return !favourite;
  } catch (error) {
    mark(favourite);
    refused(id, error);
    return favourite;
  }
}

let deleted = []; // what the notice's button restores: for each picture its id, its entry in the gallery, the filter of the gallery, and its job

/** Restore all pictures deleted since the notice appeared: the last one first, so that each returns to its place. */
async function bringBack() {
  const some = deleted.reverse();
  deleted = [];
  set({ notice: "", undo: null });
  try {
    for (const { id, entry, holder, own } of some) {
      await ask("POST", `/api/v1/history/${id}/restore`);
      if (holder && state.jobs.has(holder.id)) changed(holder.id, { outputs: holder.outputs });
      const others = state.history.filter((each) => each.id !== id);
      if (entry && own === state.filter) set({ history: [...others, entry].sort((a, b) => (own.oldest ? a.number - b.number : b.number - a.number)) });
    }
    showNotice(some.length > 1 ? `${some.length} pictures are restored` : "the picture is restored");
  } catch (error) {
    showProblem(error);
  }
  await loadHistory().catch(showProblem);
}

/** Delete pictures, one by one; the notice has a button that restores them and those deleted just before. Returns whether all are deleted. */
export async function deletePictures(...pictures) {
  if (state.undo !== bringBack) deleted = [];
  let good = true;
  for (const { id } of pictures) {
    try {
      await ask("DELETE", `/api/v1/history/${id}`);
    } catch (error) {
      refused(id, error);
      good = false;
      break;
    }
    const entry = state.history.find((each) => each.id === id), holder = [...state.jobs.values()].find((job) => job.outputs?.some((each) => each.id === id));
    deleted.push({ id, entry, holder, own: state.filter });
    withdraw(id);
  }
  if (deleted.length) showNotice(deleted.length > 1 ? `${deleted.length} pictures are deleted` : "the picture is deleted", bringBack);
  return good;
}

/** Put a picture's settings and source pictures into the form; the values of `more` replace them. */
export async function useSettings(settings, more = {}) {
  if (typeof settings !== "object" || !settings) return;
  const named = typeof settings.model === "string" ? settings.model : settings.program === "another" ? state.form.model : "emoji"; // the settings of another program's picture are used with the chosen model
  const known = state.models.find((each) => each.name === named);
  const [values, left] = checkSettings(settings, known, state.limits, state.models);
  let inputs = {};
  try {
    inputs = known ? await inputsOf(settings) : {};
  } catch (error) {
    showProblem(error);
  }
  const gone = Object.keys(inputs).filter((name) => !inputs[name]);
  const there = Object.fromEntries(Object.entries(inputs).filter(([, input]) => input));
  updateForm({ ...values, model: known?.name ?? state.form.model, inputs: there, locked: true, borrowed: true, style: "", ...more });
  if (!known) set({ problem: { message: `this picture was painted by the model '${named.slice(0, 80)}', which is not here`, hint: "its other settings are in the form" } });
  else if (gone.length) set({ problem: { message: "the source of this picture is not here any more", hint: "choose the picture again; its other settings are in the form" } });
  else if (left.length) set({ problem: { message: `some of its settings do not fit this model: ${left.join(", ").slice(0, 200)}`, hint: "the others are in the form" } });
  else showNotice("its settings are in the form");
}

/** The settings that a new prompt resets: changes of the old prompt's words, and the seed and variation that came with a picture. */
export const newPromptSettings = () => ({ changes: [], ...(state.form.borrowed ? { borrowed: false, locked: false, vary: 0 } : {}) });

/** Take a file that was dropped or chosen: its settings go into the form, or its pixels into an input. */
export async function takeFile(file, input) {
  try {
    const sending = upload(file);
    const wait = () => sending;
    beforeSubmit.add(wait);
    const sent = await sending.finally(() => beforeSubmit.delete(wait));
    if (input) updateForm({ inputs: { ...state.form.inputs, [input]: sent } });
    else if (sent.settings) await useSettings(sent.settings);
    else if (canTakePicture()) sendTo(sent);
    else set({ problem: { message: "this picture does not say how it was made", hint: "drop a PNG that limner painted" } });
  } catch (error) {
    showProblem(error);
  }
}

/** The function of a view that takes what is dropped anywhere on the page; if null, it is read as a picture. */
export const dropTarget = { take: null };

/** The tasks of a model, by default the chosen one, that start from a picture. */
export const pictureTasks = (of = model()) => Object.entries(of?.tasks ?? {}).filter(([, each]) => "image" in each.inputs && each.shows !== "maps");
const canTakePicture = () => pictureTasks().length > 0;

/** Put a picture into the form, for a task of a model: by default those of the form, if they take a picture. */
export function sendTo(picture, name, by = state.form.model) {
  if (by !== state.form.model) choose(by);
  const [first] = pictureTasks();
  const chosen = name ?? (task()?.inputs.image ? state.form.task : first[0]);
  updateForm({ task: chosen, inputs: { image: picture } });
  if (state.route.name !== "home") go("/");
  showNotice("the picture is in the form");
}

// Addresses -----------------------------------------------------------------------------------

export function read(path = location.pathname) {
  const [, kind, id, ...rest] = path.split("/");
  if (rest.length) return { name: "missing" };
  if (kind === "p" && id) return { name: "picture", id };
  if (kind === "edit" && id) return { name: "edit", id };
  if (kind === "grid" && id) return { name: "grid", id };
  if (kind === "reports" || kind === "train") return { name: kind, id };
  return { name: path === "/" ? "home" : "missing" };
}

export const place = { home: 0 }; // the scroll position of the studio when it was left

export function go(path) {
  if (path === location.pathname) return;
  if (state.route.name === "home") place.home = scrollY;
  history.pushState(null, "", path);
  set({ route: read(path), problem: null });
  window.scrollTo(0, 0);
}
