// Training in the page: choose pictures, check them, choose a model, watch it learn.

import { html, useEffect, useState } from "/page/vendor/preact.js";
import { Problem, ask, get, send, untilReachable } from "/page/api.js";
import { Curves } from "/page/curves.js";
import { readForm, writeStored } from "/page/kept.js";
import { Icon, Link, NotFound, useOnce } from "/page/parts.js";
import { askFirst, choose, dropTarget, go, loadModels, set, showNotice, showProblem, showUnlessUnknown, state } from "/page/state.js";
import { LARGEST, MOST, droppedFiles, makeArchive } from "/page/zip.js";

const FAMILIES = {
  flows: ["Flows", "learn the path from noise to pictures. Flow matching is a good first choice: its training is stable."],
  diffusion: ["Diffusion", "removes noise step by step. Stable to train, but takes many steps to paint."],
  gans: ["GANs", "paint in one step; two networks are trained against each other. Fast to paint, but less stable to train."],
  autoencoders: ["Autoencoders", "compress pictures into codes and decode them again. Fast to train, but their pictures are soft."],
  autoregressive: ["Autoregressive", "paint pixel by pixel. They know how likely a picture is, but paint slowly."],
};
const USUAL = "flow-matching";
const MINUTES = [[5, "5 minutes"], [15, "15 minutes"], [30, "half an hour"], [60, "an hour"], [120, "2 hours"], [480, "8 hours"]];
const USEFUL = /\.(png|jpe?g|webp|gif|bmp|avif|tiff?|txt|jsonl|csv)$/i;
const SOON = 1000, NOW_AND_THEN = 5000, FEW = 100;
const NOT_LOADED = {}; // in place of what could not be loaded
const PICTURES = "image/png,image/jpeg,image/webp,image/gif,image/bmp,image/avif,image/tiff,.txt,.jsonl,.csv";
const BUNDLED = { emoji: "Emoji, with captions", scenes: "Scenes of up to four emoji, with captions", mnist: "MNIST, handwritten digits", "fashion-mnist": "Fashion-MNIST, pieces of clothing" };

/** The result of `load`, which is loaded again: soon while `busy` is true of it, otherwise now and then, since a terminal may change it too. Also a function that loads it now, or sets it. */
function usePolled(load, busy, keys) {
  const [data, setData] = useState(null);
  const [round, next] = useState(0);
  useEffect(() => {
    let gone = false, timer = null;
    const again = (pause) => { timer = setTimeout(() => (document.hidden ? again(pause) : next((n) => n + 1)), pause); };
    untilReachable(load, showProblem).then((answer) => {
      if (gone) return;
      setData(answer);
      again(busy(answer) ? SOON : NOW_AND_THEN);
    }).catch((error) => { if (!gone) { setData((known) => known ?? NOT_LOADED); (data && data !== NOT_LOADED ? showProblem : showUnlessUnknown)(error); again(NOW_AND_THEN); } });
    return () => { gone = true; clearTimeout(timer); };
  }, [...keys, round]);
  return [data, (answer) => { if (answer) setData(answer); next((n) => n + 1); }];
}

const isHidden = ([path]) => path.split("/").some((part) => part.startsWith(".") || part === "__MACOSX");
const suffixOf = ([path]) => /[^./]+$/.exec(path)[0].toLowerCase();
const PHONE_FORMATS = /^hei[cf]$/;

/** A message that says how many files of each kind are left out, and what to do. */
function describeLeftOut(files) {
  const kinds = {};
  for (const file of files) kinds[suffixOf(file)] = (kinds[suffixOf(file)] ?? 0) + 1;
  const names = Object.entries(kinds).map(([kind, n]) => `${n} .${kind}`).join(", ");
  return names && `Left out, because limner cannot read them: ${names}.${files.some((each) => PHONE_FORMATS.test(suffixOf(each))) ? " Save photos from a phone as JPEG first." : ""}`;
}

/** Send the chosen files as one archive. Returns its name in the studio, and a message on the files that were left out. */
async function sendAll(all, progress) {
  const files = all.filter((each) => !isHidden(each)), useful = files.filter(([path]) => USEFUL.test(path));
  const [first = all[0]] = files;
  const single = files.length === 1 && /\.zip$/i.test(first[0]);
  const left = single ? "" : describeLeftOut(files.filter((each) => !useful.includes(each)));
  if (!single && !useful.length) throw new Problem({ message: "no pictures are among these files", hint: left || "drop a folder of PNG, JPEG or WebP files, or a zip archive of one" });
  const size = (single ? [first] : useful).reduce((sum, [, file]) => sum + file.size, 0);
  if (size > LARGEST || (!single && useful.length > MOST)) throw new Problem({ message: "a browser cannot send that much", hint: "train from the command line: limner train MODEL folder:PATH" });
  const folder = first[0].includes("/") ? first[0].split("/")[0] : "";
  const name = single ? first[0].replace(/\.zip$/i, "") : folder || "pictures";
  const body = single ? first[1] : await makeArchive(useful, (n) => progress(`reading ${n} of ${useful.length}`));
  progress(`sending ${(size / 2 ** 20).toFixed(1)} MB`);
  return [(await send(`/api/v1/data?name=${encodeURIComponent(name.slice(0, 100) || "pictures")}`, body)).name, left];
}

function DropZone({ sent }) {
  const [over, setOver] = useState(false), [doing, setDoing] = useState(""), [left, setLeft] = useState("");
  const take = async (files) => {
    set({ problem: null });
    setLeft("");
    try {
      const all = await files;
      if (!all.length) return;
      const [name, out] = await sendAll(all, setDoing);
      setLeft(out);
      sent(name);
    } catch (error) {
      showProblem(error);
    } finally {
      setDoing("");
    }
  };
  useEffect(() => {
    if (!doing) return;
    const stay = (event) => event.preventDefault(); // the browser asks first, since leaving the page ends the upload
    addEventListener("beforeunload", stay);
    return () => removeEventListener("beforeunload", stay);
  }, [Boolean(doing)]);
  useEffect(() => { dropTarget.take = (items) => take(droppedFiles(items)); return () => { dropTarget.take = null; }; });
  const chosen = (event) => { take([...event.target.files].map((file) => [file.webkitRelativePath || file.name, file])); event.target.value = ""; };
  return html`<div class=${over ? "drop over" : "drop"} onDragOver=${(e) => { e.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
      onDrop=${() => setOver(false)}>
    ${doing ? html`<p role="status">${doing} …</p>` : html`<p>Drop pictures, a folder of them, or a zip archive</p>
    <div class="go">
      <label class="second button">Choose pictures<input type="file" class="hidden" multiple accept=${PICTURES} onChange=${chosen} /></label>
      <label class="second button">Choose a folder<input type="file" class="hidden" webkitdirectory multiple onChange=${chosen} /></label>
      <label class="second button">Choose a zip<input type="file" class="hidden" accept=".zip,application/zip" onChange=${chosen} /></label></div>`}
    ${left && html`<p class="hint" role="status">${left}</p>`}
  </div>`;
}

const addressOf = ({ name }, part = "") => `/api/v1/data/${encodeURIComponent(name)}${part}`;

/** The report of `limner data check`, and the pictures. */
function DataCheck({ data, again, forget }) {
  useEffect(() => { if (data && !data.check && !data.checking) ask("POST", addressOf(data, "/check")).then(() => again()).catch(showProblem); }, [data?.name, data?.check]);
  if (!data) return null;
  const { check, name } = data;
  if (!check) return html`<p class="hint" role="status">Checking the pictures …</p>`;
  const remove = () => askFirst(`Delete the archive ${name}?`, "Delete it", () => ask("DELETE", addressOf(data)).then(() => { forget(); again(); }));
  return html`<div class="check">
    ${check.refused && html`<p class="problem">These pictures cannot be trained on yet.<span>The report below names the problems. Fix them and drop the pictures again, or give the option that the report names.</span></p>`}
    ${!check.refused && check.pictures < FEW && html`<p class="hint">${check.pictures > 1 ? `${check.pictures} pictures are few` : "One picture is not enough"}: the model will mostly repeat ${check.pictures > 1 ? "them" : "it"}. A few hundred of one kind are a good start.</p>`}
    ${check.pictures > 0 && html`<img src=${addressOf(data, "/sheet")} alt=${`some of the ${check.pictures} pictures of ${name}`} />`}
    <pre tabindex="0" aria-label="Report on the pictures">${check.text}</pre>
    ${data.own && html`<button type="button" class="quiet danger" onClick=${remove}>Delete this archive</button>`}
  </div>`;
}

/** Whether a model takes the labels or captions of the data. */
const learnsFrom = (of, check) => !check || ((!check.labels || of.takes.includes("labels")) && (!check.captioned || of.takes.includes("text")));

const BLANK = { data: "", model: USUAL, minutes: 30, options: "", name: "" };
let draft = readForm("limner-training", BLANK); // the form as it was left

function NewTraining({ models, running }) {
  const [listing, again] = usePolled(() => get("/api/v1/data"), ({ data: all }) => all.some((each) => each.checking), []), data = listing?.data;
  const [own, change] = useState(draft), [open] = useState(own.options !== ""), [sent, setSent] = useState(""); // what was sent may not be listed yet
  const chosen = data?.find((each) => each.name === own.data) ?? (sent && own.data === sent ? null : data?.[0]);
  const able = models.filter((each) => learnsFrom(each, chosen?.check)), model = able.find((each) => each.name === own.model) ?? able[0];
  const patch = (part) => { set({ problem: null }); change((draft = { ...draft, ...part })); writeStored("limner-training", JSON.stringify(draft)); };
  const options = own.options.split(/\s+/).filter(Boolean), stepped = options.some((each) => each.startsWith("train.steps="));
  const refused = chosen?.check?.refused && !options.some((each) => each.startsWith("data.")); // such as data.labels=false
  const [starting, start] = useOnce(async () => {
    try {
      const { id } = await ask("POST", "/api/v1/trainings", { model: model.name, data: chosen.name, minutes: stepped ? null : own.minutes, options, name: own.name });
      go(`/train/${id}`);
    } catch (error) {
      showProblem(error);
    }
  });
  if (!data) return null;
  return html`<form class="begin" onSubmit=${(event) => { event.preventDefault(); start(); }} aria-label="What to train">
    <section><h2>1. Pictures</h2>
      <${DropZone} sent=${(name) => { setSent(name); patch({ data: name }); again(); }} />
      <div class="field"><label for="data">Or pictures that are here already</label>
        <select id="data" value=${chosen?.name} onChange=${(e) => patch({ data: e.target.value })}>
          ${data.map((each) => html`<option key=${each.name} value=${each.name}>${BUNDLED[each.name] ?? each.name}</option>`)}</select></div>
      <${DataCheck} data=${chosen} again=${again} forget=${() => patch({ data: "" })} /></section>
    <section><h2>2. Kind of model</h2>
      <div class="field"><label for="kind">Model</label>
        <select id="kind" value=${model?.name} onChange=${(e) => patch({ model: e.target.value })} aria-describedby="kind-help">
          ${Object.entries(FAMILIES).map(([family, [title]]) => html`<optgroup key=${family} label=${title}>${able.filter((each) => each.family === family).map((each) => html`<option key=${each.name} value=${each.name}>${each.name}</option>`)}</optgroup>`)}
        </select>
        ${model && html`<small id="kind-help">${FAMILIES[model.family] && html`${FAMILIES[model.family][0]} ${FAMILIES[model.family][1]} `}${model.summary}</small>`}</div></section>
    <section><h2>3. Time</h2>
      <div class="field"><label for="minutes">Training time, about</label>
        <select id="minutes" value=${own.minutes} disabled=${stepped} onChange=${(e) => patch({ minutes: Number(e.target.value) })} aria-describedby="minutes-help">
          ${MINUTES.map(([n, title]) => html`<option key=${n} value=${n}>${title}</option>`)}</select>
        <small id="minutes-help">${stepped ? "The options set the number of steps." : "The size of the pictures and the number of steps are chosen to fit: more time gives larger and better pictures. You can stop and resume at any time."}</small></div>
      <div class="field"><label for="name">Name of the model</label>
        <input id="name" type="text" maxlength="100" value=${own.name} placeholder=${model && chosen ? `${model.name}-${chosen.name}` : ""} onInput=${(e) => patch({ name: e.target.value })} /></div>
      <details class="more" open=${open}><summary>Options</summary>
        <div class="field"><label for="further">Command-line options</label>
          <input id="further" type="text" value=${own.options} placeholder="data.size=32 train.lr=1e-4" onInput=${(e) => patch({ options: e.target.value })} spellcheck="false" />
          <small><code>model.</code>, <code>data.</code>, <code>train.</code> or <code>sampler.</code> options, separated by spaces.</small></div></details>
      <div class="go"><button class="paint" disabled=${!chosen || !model || running || refused || starting}>Train</button></div>
      ${running && html`<p class="hint">A training is running: <${Link} to=${`/train/${running.id}`} class="link">${running.name}</${Link}>. Stop it first, or wait until it is done.</p>`}
    </section>
  </form>`;
}

const STATES = { running: "training", done: "done", stopped: "stopped", failed: "failed" };
const progressText = ({ state: how, stopping, step, steps }) => `${stopping ? "saving" : STATES[how]}${steps ? `, ${step.toLocaleString("en")} of ${steps.toLocaleString("en")} steps` : ""}`;

function TrainingList() {
  const [overview] = usePolled(() => get("/api/v1/trainings"), ({ trainings, models }) => !models.length || trainings.some((each) => each.state === "running"), []);
  if (!overview?.models) return html`<div class="train"></div>`;
  const { trainings, models } = overview;
  return html`<section class="train" aria-label="Train">
    <header><h1>Train a model of your own</h1><p class="hint">Everything happens on this machine, and painting continues meanwhile. A few hundred pictures of one kind are a good start.</p></header>
    <${NewTraining} models=${models} running=${trainings.find((each) => each.state === "running" && !each.elsewhere)} />
    ${trainings.length > 0 && html`<div><h2>Trainings</h2><div class="sheets">${trainings.map((each) => html`<${Link} key=${each.id} to=${`/train/${each.id}`} class="sheet-of">
      <h3>${each.name}</h3><p class="hint">${each.model} ${each.source && `on ${each.source}`}<br />${progressText(each)}</p></${Link}>`)}</div></div>`}
  </section>`;
}

/** A remark of the command line, in words for people who have never used one. */
function plainRemark(line) {
  const [, size, steps, pace] = /^fits the budget: (?:data\.size=(\d+) )?train\.steps=(\d+) \(([\d.,]+) images\/s\)$/.exec(line) ?? [];
  return steps ? `For this length of time: ${size ? `pictures of ${size} × ${size} pixels, ` : ""}${Number(steps).toLocaleString("en")} steps, at ${pace} pictures a second.` : line;
}

/** The speed of a training as the command line prints it, in plain words. */
const plainPace = (line) => line.trim().replace("img/s", "pictures a second").replaceAll(/ {2,}/g, " · ");

/** The pictures that the model paints as it learns, with a slider over the steps, next to the real pictures. */
function Samples({ training, data }) {
  const [at, setAt] = useState(null), { samples, id } = training;
  const none = training.state === "running" ? "The first samples will appear soon" : "No samples have been painted yet";
  if (!samples.length) return html`<p class="hint">${none}${data ? "; these are the real pictures" : ""}.</p>${data && html`<div class="beside"><${RealPictures} data=${data} /></div>`}`;
  const place = Math.min(at ?? samples.length - 1, samples.length - 1), step = samples[place];
  return html`<div class="beside">
    <figure><figcaption>Samples after ${step.toLocaleString("en")} steps</figcaption>
      <img class="pixels" src=${`/api/v1/trainings/${id}/samples/${step}`} alt=${`samples after ${step} steps`} />
      ${samples.length > 1 && html`<input type="range" min="0" max=${samples.length - 1} value=${place} aria-label="Samples over time" aria-valuetext=${`after ${step} steps`}
        onInput=${(e) => setAt(Number(e.target.value) === samples.length - 1 ? null : Number(e.target.value))} />`}</figure>
    ${data && html`<${RealPictures} data=${data} />`}</div>`;
}

const RealPictures = ({ data }) => html`<figure><figcaption>Real pictures</figcaption><img src=${addressOf(data, "/sheet")} alt=${`real pictures of ${data.name}`} /></figure>`;

function TrainingPage({ id }) {
  const [training, again] = usePolled(() => get(`/api/v1/trainings/${id}`), (each) => each.state === "running", [id]);
  const [sets, setSets] = useState([]);
  const [acting, act] = useOnce((method, path, body) => ask(method, `/api/v1/trainings/${id}${path}`, body).then(again).catch(showProblem));
  useEffect(() => { get("/api/v1/data").then(({ data }) => setSets(data)).catch(showProblem); }, [id, training?.steps > 0]);
  if (!training) return html`<div class="train"></div>`;
  if (!training.id) return html`<${NotFound} what="training" />`;
  const { state: how, elsewhere, name, step, steps, error, remarks, said, command, stopping } = training;
  const data = sets.find((each) => each.source === training.source && each.check?.pictures);
  const paint = async () => {
    await loadModels();
    if (!state.models.some((each) => each.name === name)) return showNotice("the studio is still loading this model; try again in a moment");
    choose(name);
    go("/");
    if (step < steps) showNotice(`so far this model has been trained for ${step.toLocaleString("en")} of ${steps.toLocaleString("en")} steps`);
  };
  const remove = () => askFirst(`Delete ${name}, with its model?`, "Delete it", async () => { await ask("DELETE", `/api/v1/trainings/${id}/run`); go("/train"); showNotice("the training is deleted"); });
  return html`<section class="train one" aria-label=${name}>
    <header><${Link} to="/train" class="quiet"><${Icon} name="left" /> All trainings</${Link}><h1>${name}</h1>
      <p class="facts">${training.model && html`${training.model} on ${training.source} · `}<span role="status">${progressText(training)}</span>${said && ` · ${plainPace(said)}`}</p></header>
    <progress max=${steps || 1} value=${steps ? step : how === "running" ? undefined : 0} aria-label="progress"></progress>
    ${error && html`<p class="problem" role="alert">${error.message}${error.hint && html`<span>${error.hint}</span>`}</p>`}
    <div class="go">
      ${how === "running" && !elsewhere && html`<button type="button" class="second" disabled=${stopping || acting} onClick=${() => act("DELETE", "")}>${stopping ? "Saving …" : "Stop"}</button>`}
      ${(how === "stopped" || how === "failed") && steps > 0 && html`<button type="button" class="second" disabled=${acting} onClick=${() => act("POST", "/resume", {})}>Resume</button>`}
      ${how === "done" && html`<button type="button" class="second" disabled=${acting} onClick=${() => act("POST", "/resume", { options: [`train.steps=${2 * steps}`] })}>Train as many steps again</button>`}
      ${steps > 0 && html`<button type="button" class="paint" onClick=${() => paint().catch(showProblem)}>Paint with it</button>`}
    </div>
    ${how === "running" && !elsewhere && !steps && html`<p class="hint" role="status">${command.includes(" --budget ") ? "Measuring how fast this machine trains, to choose the size of the pictures and the number of steps." : "Reading the pictures."}</p>`}
    ${how === "stopped" && !steps && html`<p class="hint">It was stopped before its first step, so there is nothing to resume: <${Link} to="/train" class="link">begin again</${Link}>.</p>`}
    ${elsewhere && html`<p class="hint">This training runs outside the studio, for example in a terminal: Ctrl-C stops it there.</p>`}
    ${remarks.length > 0 && html`<ul class="hint">${remarks.map((line) => html`<li key=${line}>${plainRemark(line)}</li>`)}</ul>`}
    ${steps > 0 && html`<h2>Samples</h2><${Samples} training=${training} data=${data} /><h2>Curves</h2><${Curves} curves=${training.curves} />`}
    <details class="more"><summary>On the command line</summary><pre tabindex="0">${command}</pre></details>
    ${training.own && how !== "running" && html`<div><button type="button" class="quiet danger" onClick=${remove}>Delete this training</button></div>`}
  </section>`;
}

export const Train = ({ id }) => (id ? html`<${TrainingPage} id=${id} />` : html`<${TrainingList} />`);
