// The form: which model, what to paint, with which options.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { get } from "/page/api.js";
import { useCompletion } from "/page/complete.js";
import { DeferredInput, Form } from "/page/form.js";
import { LabelledField, useHelp } from "/page/help.js";
import { MOST, axes, combinations, parse, problemWith } from "/page/grid.js";
import { Alert, Icon, Link, lazy, onEnter } from "/page/parts.js";
import { ReportNumbers } from "/page/reports.js";
import { fittingControls } from "/page/settings.js";
import { choose, hintModels, inputs, lacksInput, model, newPromptSettings, options, paint, paintGrid, randomSeed, request, setAxes, showProblem, sizeOf, state, surprise, takeFile, task, updateForm } from "/page/state.js";

const FAMILIES = { diffusion: "Diffusion", flows: "Flows", gans: "GANs", autoencoders: "Autoencoders", autoregressive: "Autoregressive" };
/** The help of each field of the form; the options of models bring their own. */
const HELPS = {
  model: "The model that paints. Each learnt from different pictures, in its own way. Below are its kind, the size of its pictures, and its number of parameters: the numbers that it has learnt.",
  task: "What the model does: paint a new picture, or work with a picture that you give.",
  prompt: "What the picture should show, in English. (red:1.4) gives a word more weight, [red] less; {red|blue} chooses one at random.",
  label: "The kind of picture, one of those that the model learnt from.",
  n: "How many pictures to paint together.",
  seed: "The number that determines everything random. The same seed with the same settings gives the same picture; the lock keeps it.",
  negative: "What the picture should not be.",
  vary: "How far the pictures after the first may differ from it: 0 gives unrelated pictures, a small value gives variations of the first.",
  size: "The width and height of the picture. The first size is that of the pictures that the model learnt from; at another size it may compose less well.",
  dtype: "The precision of the calculation. bfloat16 is coarser and may be faster; pictures change slightly.",
};
const millions = (n) => (n >= 1e6 ? `${(n / 1e6).toFixed(n < 1e7 ? 1 : 0)} M` : `${Math.max(1, Math.round(n / 1e3))} K`);

/** The group of a model in the list: small bundled models that show their family are for learning. */
const modelGroup = (each) => (each.bundled && !each.text && !each.hint ? "Learn: a small model of each family" : FAMILIES[each.family] ?? each.family);

function ModelPicker() {
  const shelves = [...new Set(state.models.map(modelGroup))], broken = Object.entries(state.broken);
  const chosen = model();
  const { button, note, described } = useHelp("model", "Model", HELPS.model);
  return html`<div class="field picker">
    <div class="named"><label for="model">Model</label>${button}</div>
    <select id="model" aria-describedby=${described} value=${state.form.model} onChange=${(e) => choose(e.target.value)}>
      ${shelves.map((name) => html`<optgroup label=${name}>
        ${state.models.filter((each) => modelGroup(each) === name).map((each) => html`<option value=${each.name}>${each.name}</option>`)}
      </optgroup>`)}
    </select>
    ${chosen && html`<p class="facts" title=${chosen.summary}>
      <span class="chip">${FAMILIES[chosen.family] ?? chosen.family}</span>
      ${chosen.kind} · ${chosen.size[2]} × ${chosen.size[1]} · ${millions(chosen.parameters)} parameters</p>`}
    ${chosen?.bundled && !chosen.text && !chosen.hint && html`<p class="hint">${chosen.summary} ${chosen.paper}</p>`}
    ${broken.length > 0 && html`<details class="weigh"><summary>${broken.length} cannot be used</summary>
      ${broken.map(([name, why]) => html`<p class="hint">${name}: ${why}</p>`)}</details>`}
    ${note}
  </div>`;
}

function TaskPicker() {
  const known = Object.entries(model()?.tasks ?? {}).filter(([, each]) => each.shows !== "maps");
  const chosen = model()?.tasks[state.form.task], { button, note } = useHelp("task", "Task", chosen ? `${HELPS.task} ${chosen.title}: ${chosen.about}` : HELPS.task);
  if (known.length < 2) return null;
  return html`<div class="field"><div class="tabs" role="group" aria-label="Task">
    ${known.map(([name, each]) => html`<button type="button" aria-pressed=${state.form.task === name} title=${each.about} onClick=${() => updateForm({ task: name })}>${each.title}</button>`)}
    ${button}</div>${note}</div>`;
}

const INPUTS = { image: "Picture", other: "The other picture", mask: "Where it may change" };
const Canvas = lazy("canvas", "Canvas"), Brush = lazy("brush", "Brush"), Weights = lazy("edit", "Weights"), Styles = lazy("styles", "Styles", false), Wildcards = lazy("wildcards", "Wildcards", false), Controls = lazy("controls", "Controls", false), Trace = lazy("controls", "Trace", false);
const COMPLETES = "words"; // the vocabulary that most models read prompts with

function Input({ name, required }) {
  const input = state.form.inputs[name];
  const [over, setOver] = useState(false), [sending, send] = useState(false);
  const chosen = async ([file]) => {
    if (!file) return;
    send(true);
    await takeFile(file, name);
    send(false);
  };
  if (name === "hint") return html`<${Canvas} key=${hintModels()[0].name} required=${required} />`;
  if (name.startsWith("hint")) return html`<${Trace} name=${name} />`;
  if (name === "mask") return state.form.inputs.image ? html`<${Brush} key=${state.form.inputs.image.id} picture=${state.form.inputs.image} />` : null;
  const out = html`<button type="button" class="quiet" onClick=${() => updateForm({ inputs: { ...state.form.inputs, [name]: undefined, mask: undefined } })}>Another picture</button>`;
  if (input && name === "image" && task().inputs.mask) return out; // the picture is shown under the brush
  return html`<div class="field">
    <span class="label">${INPUTS[name] ?? name}${required ? "" : " (optional)"}</span>
    <label class=${`drop ${over ? "over" : ""} ${input ? "full" : ""}`}
      onDragOver=${(e) => { e.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}
      onDrop=${(e) => { e.preventDefault(); e.stopPropagation(); setOver(false); chosen(e.dataTransfer.files); }}>
      <input type="file" class="hidden" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp,image/avif" aria-label=${INPUTS[name] ?? name}
        disabled=${sending} onChange=${(e) => chosen(e.target.files)} />
      ${sending ? html`<span role="status">Sending the picture …</span>` : input ? html`<img class="pixels" src=${input.url} alt="the picture that was given" />` : html`<span>Drop a picture, or choose a file</span>`}
    </label>
    ${input && out}
  </div>`;
}

function Inputs() {
  return inputs().map(([name, required]) => html`<${Input} key=${name} name=${name} required=${required} />`);
}

const EXAMPLES = { instruct: "make the apple blue" };

function PromptFields() {
  const area = useRef(null), [weighing, weigh] = useState(false), [styling, style] = useState(false), [listing, lists] = useState(false);
  const { prompt, label, changes } = state.form, of = model(), completion = useCompletion(area, of?.reads === COMPLETES);
  const help = useHelp("prompt", "Prompt", HELPS.prompt);
  const grow = () => {
    const box = area.current;
    if (!box) return;
    box.style.height = "auto";
    box.style.height = `${box.scrollHeight}px`;
  };
  useEffect(grow, [prompt, of]);
  useEffect(() => {
    addEventListener("resize", grow);
    return () => removeEventListener("resize", grow);
  }, []);
  return html`
    ${(!of || of.text) && html`<div class="field words"><div class="named"><label for="prompt">Prompt</label>${help.button}</div>
      <div class="completed"><textarea id="prompt" ref=${area} rows="2" maxlength=${state.limits.prompt} placeholder=${EXAMPLES[state.form.task] ?? "a red apple"} value=${prompt} spellcheck="true" aria-describedby=${help.described} ...${completion.attributes}
        onInput=${(e) => { updateForm({ prompt: e.target.value, ...newPromptSettings() }); completion.typed(); }}></textarea>${completion.list}</div>${help.note}
      ${changes.length > 0 && of?.tasks.reword && html`<p class="hint">Changed: ${changes.join(", ")}. <button type="button" class="link" onClick=${() => updateForm({ changes: [] })}>Leave out</button></p>`}
      ${of && html`<details class="weigh" onToggle=${(e) => weigh(e.target.open)}><summary>Weights of words</summary>${weighing && html`<${Weights} />`}</details>
        <details class="weigh" onToggle=${(e) => style(e.target.open)}><summary>Styles and earlier prompts${state.form.style && html` <span class="chip">${state.form.style}</span>`}</summary>${styling && html`<${Styles} />`}</details>
        <details class="weigh" onToggle=${(e) => lists(e.target.open)}><summary>Lists of words</summary>${listing && html`<${Wildcards} />`}</details>`}</div>`}
    ${of?.labels.length > 0 && html`<${LabelledField} id="class" name="Class" help=${HELPS.label} control=${(described) => html`<select id="class" aria-describedby=${described} value=${label} onChange=${(e) => updateForm({ label: e.target.value, ...newPromptSettings() })}>
        <option value="">any</option>${of.labels.map((each) => html`<option value=${each}>${each}</option>`)}
      </select>`} />`}`;
}

const COUNTS = [1, 2, 4, 6, 9, 16], LARGEST = Number.MAX_SAFE_INTEGER;

function CountAndSeed() {
  const { n, seed, locked, borrowed, vary } = state.form;
  return html`<div class="pair">
    ${task()?.several !== false && html`<${LabelledField} id="count" name="Pictures" help=${HELPS.n} control=${(described) => html`<select id="count" aria-describedby=${described} value=${n} onChange=${(e) => updateForm({ n: Number(e.target.value) })}>
        ${[...new Set([...COUNTS, n])].sort((a, b) => a - b).map((each) => html`<option value=${each}>${each}</option>`)}
      </select>`} />`}
    <${LabelledField} id="seed" name="Seed" help=${HELPS.seed} control=${(described) => html`<div class="joined">
        <${DeferredInput} id="seed" type="number" aria-describedby=${described} step="1" value=${seed} change=${(text) => updateForm({ seed: Math.max(-LARGEST, Math.min(LARGEST, Math.round(Number(text)) || 0)), locked: true, borrowed: false })} />
        <button type="button" title="another seed" aria-label="Another seed" onClick=${() => updateForm({ seed: randomSeed() })}><${Icon} name="dice" /></button>
        <button type="button" title=${locked ? "the seed is kept" : "a new seed each time"} aria-label="Keep the seed" aria-pressed=${locked}
          onClick=${() => updateForm({ locked: !locked, borrowed: false })}><${Icon} name=${locked ? "lock" : "unlock"} /></button>
      </div>`} />
  </div>
  ${locked && borrowed && html`<p class="hint kept">The seed${vary ? " and the variation are" : " is"} the picture's, until the prompt changes. <button type="button" class="link" onClick=${() => updateForm({ ...newPromptSettings(), seed: randomSeed() })}>Use a new seed</button></p>`}`;
}

/** A schema of options without those that are shown elsewhere. */
const omitOptions = (schema, ...names) => ({ ...schema, properties: Object.fromEntries(Object.entries(schema.properties).filter(([key]) => !names.includes(key))) });

function MoreOptions() {
  const own = state.form, of = model(), does = task();
  if (!of || !does) return null;
  const differing = Object.keys(own.sampler).length + Boolean(own.negative) + Boolean(own.vary) + Boolean(sizeOf()) + (own.dtype !== "float32");
  const usual = { sampler: {}, negative: "", vary: 0, size: "", dtype: "float32" };
  const about = { label: "Variation", type: "number", minimum: 0, maximum: 1, default: 0 };
  const common = { properties: { ...(does.several ? { vary: about } : {}), dtype: { label: "Precision", enum: ["float32", "bfloat16"], default: "float32" } } };
  return html`<details class="more"><summary>Options${differing > 0 && html` <span class="chip">${differing} changed</span>`}</summary>
    ${of.text && html`<${LabelledField} id="negative" name="Negative prompt" help=${HELPS.negative} control=${(described) => html`<input id="negative" type="text" aria-describedby=${described} value=${own.negative} onInput=${(e) => updateForm({ negative: e.target.value })} placeholder="what it should not be" />`} />`}
    ${does.sized && of.sizes.length > 0 && html`<${LabelledField} id="size" name="Size" help=${HELPS.size} control=${(described) => html`<select id="size" aria-describedby=${described} value=${sizeOf() || of.sizes[0]} onChange=${(e) => updateForm({ size: e.target.value })}>
        ${of.sizes.map((each) => html`<option value=${each}>${each.split("x").reverse().join(" × ")}</option>`)}
      </select>`} />`}
    <${Form} prefix="sampler" schema=${hintModels().length ? omitOptions(options(), "control_strength", "control_weights") : of.schema} usual=${of.usual} values=${own.sampler} change=${(sampler) => updateForm({ sampler })} />
    <${Form} prefix="common" schema=${common} help=${HELPS} values=${{ ...(own.vary ? { vary: own.vary } : {}), ...(own.dtype !== "float32" ? { dtype: own.dtype } : {}) }}
      change=${({ vary = 0, dtype = "float32" }) => updateForm({ vary, dtype })} />
    ${differing > 0 && html`<button type="button" class="quiet" onClick=${() => updateForm(usual)}>Reset to defaults</button>`}
  </details>`;
}

function Axis({ place, known, start }) {
  const name = ["Columns", "Rows", "Sheets"][place], own = state.axes[place];
  const change = (patch) => setAxes(state.axes.map((each, i) => (i === place ? (patch && { ...each, ...patch }) : each)));
  const axis = known.find((each) => each.key === own?.key);
  return html`<div class="axis">
    <label for=${`axis-${place}`}>${name}</label>
    <select id=${`axis-${place}`} value=${own?.key ?? ""} onChange=${(e) => change(e.target.value ? { key: e.target.value, text: "" } : null)}>
      <option value="">none</option>${known.map((each) => html`<option value=${each.key}>${each.title}</option>`)}
    </select>
    <input type="text" aria-label=${`Values of ${name.toLowerCase()}`} disabled=${!axis} value=${own?.text ?? ""} placeholder=${axis?.hint ?? (axis?.numeric ? "1, 2, 3 or 1-9(2)" : axis ? "this, that" : "")}
      onKeyDown=${onEnter(start)} onInput=${(e) => change({ text: e.target.value })} />
  </div>`;
}

function Grid() {
  const known = axes(model(), state.models);
  const chosen = state.axes.map((own) => {
    const axis = own && known.find((each) => each.key === own.key);
    return axis ? { ...axis, values: parse(own.text, axis.numeric) } : null;
  });
  const cells = chosen.reduce((product, axis) => product * Math.max(1, axis?.values.length ?? 1), 1);
  const too = cells > MOST, requests = cells > 1 && !too && task() ? combinations(request(), chosen, state.models) : [];
  const wrong = too ? `A grid has at most ${MOST} pictures.` : requests.map((each) => problemWith(each, state.models)).find(Boolean);
  const able = requests.length > 0 && !wrong;
  const start = () => paintGrid(() => combinations(request(), chosen, state.models));
  const alike = state.models.filter((each) => each.text === model()?.text && each.tasks[state.form.task] && (!each.hint || state.form.inputs.hint || (each.condition !== "required" && !each.over))); // without a hint, a control paints as its base does
  const others = alike.filter((each) => each !== model());
  const compare = () => setAxes([{ key: "model", text: [model(), ...others.slice(0, 5)].map((each) => each.name).join(", ") }, { key: "seed", text: "1-2" }, null]);
  return html`<details class="more"><summary>Grid</summary>
    <p class="hint">The same settings with one thing changed from cell to cell: a list <code>1, 2, 3</code>, a range in steps <code>1-9(2)</code>, or a number of values <code>0-1[5]</code>.</p>
    ${[0, 1, 2].map((place) => html`<${Axis} key=${place} place=${place} known=${known} start=${() => able && start()} />`)}
    ${alike.length > 1 && html`<button type="button" class="quiet" onClick=${compare}>Compare the models</button>`}
    ${wrong && html`<p class="problem" role="status">${wrong}</p>`}
    <button type="button" class="second" disabled=${!able} onClick=${start}>${requests.length ? `Paint ${cells} pictures` : "Paint the grid"}</button>
  </details>`;
}

/** The results of `limner evaluate` for the model. */
function ModelReports() {
  const [reports, setReports] = useState([]), name = model()?.name;
  useEffect(() => {
    let stale = false;
    setReports([]);
    if (name) get(`/api/v1/reports?model=${encodeURIComponent(name)}`).then(({ reports }) => stale || setReports(reports)).catch(showProblem);
    return () => { stale = true; };
  }, [name]);
  if (!reports.length) return null;
  return html`<details class="more"><summary>Evaluation</summary>
    ${reports.map((report) => html`<section key=${report.against}><p class="hint">against ${report.against}, ${report.date}</p>
      <${ReportNumbers} report=${report} /></section>`)}
    <${Link} to="/reports" class="quiet">All reports</${Link}>
  </details>`;
}

/** Show a field that has a wrong value, so that the browser can say what is wrong with it. */
function reveal({ target }) {
  for (let around = target.closest("details"); around; around = around.parentElement.closest("details")) around.open = true;
}

/** Ignore the clicks after the first of a double click. */
function countOnce(event) {
  if (event.detail < 2) return;
  event.preventDefault();
  event.stopPropagation();
}

export function Composer() {
  const own = task();
  const lacks = lacksInput();
  const send = (event) => { event.preventDefault(); paint(); };
  return html`<form class="composer" onSubmit=${send} onInvalidCapture=${reveal} aria-label="What to paint">
    <${ModelPicker} /><${TaskPicker} /><${PromptFields} />${own && fittingControls(model(), state.models).length > 0 && state.form.task === "paint" && html`<${Controls} />`}<${Inputs} />
    ${own && Object.keys(own.schema.properties ?? {}).length > 0 && html`<${Form} prefix="task" schema=${own.schema} values=${state.form.options} change=${(options) => updateForm({ options })} />`}
    <${CountAndSeed} />
    <${Alert} />
    ${lacks && html`<p class="hint">${inputs().some(([name, required]) => name.startsWith("hint") && required) ? "Draw first, or drop a picture." : "Choose the picture first."}</p>`}
    <div class="go" onClickCapture=${countOnce}>
      <button class="paint" disabled=${!model() || lacks} title="Ctrl+Enter">${own && inputs().length && state.form.task !== "paint" ? own.title : "Paint"}</button>
      <button type="button" class="second" title="a random prompt" disabled=${!model() || lacks} onClick=${surprise}><${Icon} name="spark" /> Surprise me</button>
    </div>
    <${MoreOptions} /><${Grid} /><${ModelReports} />
  </form>`;
}
