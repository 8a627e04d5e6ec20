// Controls: models that were trained to steer another model, applied on top of it.

import { html, useState } from "/page/vendor/preact.js";
import { upload } from "/page/api.js";
import { LabelledField } from "/page/help.js";
import { capitalise, hintWords } from "/page/hints.js";
import { Icon } from "/page/parts.js";
import { PATHS } from "/page/pens.js";
import { fittingControls } from "/page/settings.js";
import { hintModels, hintName, makeHint, model, setControls, showProblem, state, updateForm } from "/page/state.js";

const HELP = "Models that learnt to follow drawings, edges, masks or boxes with a model like this one. Each is applied on top of it and follows a drawing of its own.";
const MOST = 4;

/** The controls on top of the model, and the weight of each where there are several. */
export function Controls() {
  const hints = hintModels(), own = state.form.controls, able = fittingControls(model(), state.models);
  const weights = hints.map((_, i) => state.form.sampler.control_weights?.[i] ?? 1);
  const sampler = (values) => ({ ...state.form.sampler, control_weights: values });
  const weigh = (values) => updateForm({ sampler: sampler(values) });
  const add = (name) => name && setControls([...own, name], { sampler: state.form.sampler.control_weights ? sampler([...weights, 1]) : state.form.sampler });
  const remove = (place) => { // the drawing of a control goes with it
    const others = (values) => values.filter((_, i) => i !== place + hints.length - own.length);
    const drawn = others(hints.map((_, i) => state.form.inputs[hintName(i)])).map((input, i) => [hintName(i), input]);
    const rest = Object.entries(state.form.inputs).filter(([name]) => !name.startsWith("hint"));
    setControls(own.filter((_, i) => i !== place), { sampler: sampler(others(weights)), inputs: Object.fromEntries([...rest, ...drawn.filter(([, input]) => input)]) });
  };
  return html`<${LabelledField} id="control" name="Controls" help=${HELP} control=${(described) => html`
    ${hints.map((each, i) => html`<div class="steers" key=${`${i} ${each.name}`}>
      <span title=${each.name}>${each.name}</span>
      ${hints.length > 1 && html`<input type="range" min="0" max="2" step="0.05" value=${weights[i]} aria-label=${`How strongly ${each.name} counts`} aria-valuetext=${weights[i].toFixed(2)}
        onInput=${(e) => weigh(weights.map((weight, k) => (k === i ? Number(e.target.value) : weight)))} /><span class="hint">${weights[i].toFixed(2)}</span>`}
      ${i >= hints.length - own.length && html`<button type="button" class="bare" aria-label=${`Without ${each.name}`} title="without it" onClick=${() => remove(i - hints.length + own.length)}><${Icon} name="close" /></button>`}</div>`)}
    ${hints.length < MOST && html`<select id="control" aria-describedby=${described} value="" onChange=${(e) => { add(e.target.value); e.target.value = ""; }}>
      <option value="">${own.length ? "add another" : "none"}</option>${able.map((each) => html`<option key=${each.name} value=${each.name}>${each.name}${each.hint_kind && ` (${hintWords(each)[1]})`}</option>`)}
    </select>`}`} />`;
}

/** The hint of a further control: made from a picture, or a drawing that is used unchanged. */
export function Trace({ name }) {
  const [busy, setBusy] = useState(false), input = state.form.inputs[name];
  const of = hintModels().find((_, i) => hintName(i) === name), [, called] = hintWords(of);
  const put = async (file, traced) => {
    if (!file) return;
    setBusy(true);
    try {
      const sent = await upload(file);
      updateForm({ inputs: { ...state.form.inputs, [name]: traced ? await makeHint(sent, of.name) : sent } });
    } catch (error) {
      showProblem(error);
    }
    setBusy(false);
  };
  const traces = Boolean(of.tasks.outline);
  const chooser = (label, traced) => html`<label class="quiet file"><input type="file" class="hidden" accept="image/*" disabled=${busy} aria-label=${`${label}, for ${of.name}`}
    onChange=${(e) => { put(e.target.files[0], traced); e.target.value = ""; }} /><${Icon} path=${PATHS.open} /> ${label}</label>`;
  return html`<div class="field">
    <span class="label">What ${of.name} follows</span>
    <div class=${`drop ${busy ? "over" : ""} ${input ? "full" : ""}`} onDragOver=${(e) => { e.preventDefault(); e.stopPropagation(); }}
      onDrop=${(e) => { e.preventDefault(); e.stopPropagation(); put(e.dataTransfer.files[0], traces); }}>
      ${input ? html`<img class="pixels" src=${input.url} alt=${`the ${called} that ${of.name} follows`} />` : html`<span>Drop a picture${traces ? ` for its ${called}` : ""}</span>`}
    </div>
    <div class="from">${traces && chooser(`${capitalise(called)} of a picture`, true)}${chooser("A drawing", false)}</div>
  </div>`;
}
