// Styles: words added around a prompt, kept in this browser and shared as a file; also earlier prompts.

import { html, useState } from "/page/vendor/preact.js";
import { isStyle, keepStyles, prompts, saveFile, styles } from "/page/kept.js";
import { onEnter } from "/page/parts.js";
import { newPromptSettings, set, showNotice, state, updateForm } from "/page/state.js";

const FILE = "limner-styles.json";

const save = (list) => saveFile(new Blob([JSON.stringify(list, null, 1)], { type: "application/json" }), FILE);

/** The user's styles, with those of a file added; a style of the file replaces one of the same name. */
async function open(file) {
  let content = null;
  try {
    content = JSON.parse(await file.text());
  } catch { /* reported below */ }
  const good = Array.isArray(content) ? content.filter(isStyle).map(({ name, prompt, negative = "" }) => ({ name, prompt, negative })) : [];
  if (!good.length) set({ problem: { message: "there are no styles in this file", hint: "choose one that was saved here" } });
  else showNotice(`${good.length} style${good.length > 1 ? "s" : ""} read`);
  return [...styles().filter((own) => !good.some(({ name }) => name === own.name)), ...good];
}

export function Styles() {
  const [list, setList] = useState(styles), [own, edit] = useState({ name: "", prompt: "", negative: "" });
  const keep = (next) => { keepStyles(next); setList(styles()); };
  const choose = (name) => { updateForm({ style: name }); edit(list.find((each) => each.name === name) ?? { name: "", prompt: "", negative: "" }); };
  const add = () => { keep([...list.filter(({ name }) => name !== own.name.trim()), { ...own, name: own.name.trim() }]); updateForm({ style: own.name.trim() }); };
  const remove = () => { keep(list.filter(({ name }) => name !== state.form.style)); choose(""); };
  const good = isStyle(own) && own.prompt.trim() !== "";
  const field = (key, label, hint) => html`<div class="field"><label for=${`style-${key}`}>${label}</label>
    <input id=${`style-${key}`} type="text" value=${own[key]} placeholder=${hint} onKeyDown=${onEnter(() => good && add())} onInput=${(e) => edit({ ...own, [key]: e.target.value })} /></div>`;
  const earlier = prompts();
  return html`<div class="fields">
    <div class="field"><label for="style">Style</label>
      <select id="style" value=${state.form.style} onChange=${(e) => choose(e.target.value)}><option value="">none</option>${list.map(({ name }) => html`<option key=${name} value=${name}>${name}</option>`)}</select></div>
    ${field("name", "Name", "night")}
    ${field("prompt", "Words around the prompt", "{prompt} under the stars")}
    ${field("negative", "Negative prompt", "")}
    <div class="views"><button type="button" class="quiet" disabled=${!good} onClick=${add}>Keep this style</button>
      ${state.form.style && html`<button type="button" class="quiet danger" onClick=${remove}>Delete it</button>`}
      <button type="button" class="quiet" disabled=${!list.length} onClick=${() => save(list)}>Save as a file</button>
      <label class="quiet">From a file<input type="file" class="hidden" accept=".json,application/json" onChange=${async (e) => { const [file] = e.target.files; e.target.value = ""; if (file) keep(await open(file)); }} /></label></div>
    ${earlier.length > 0 && html`<div class="field"><label for="earlier">Earlier prompts</label>
      <select id="earlier" value="" onChange=${(e) => e.target.value && updateForm({ prompt: e.target.value, ...newPromptSettings() })}><option value="">choose one</option>${earlier.map((each) => html`<option key=${each} value=${each}>${each.slice(0, 120)}</option>`)}</select></div>`}
  </div>`;
}
