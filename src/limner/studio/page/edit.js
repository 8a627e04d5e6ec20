// Changing the words of a picture: before and after, the words of the prompt, and the tree of all edits.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { Problem, get, untilReachable } from "/page/api.js";
import { DeferredInput, Form } from "/page/form.js";
import { FramePicture, Icon, Link, NotFound } from "/page/parts.js";
import { applyChanges } from "/page/settings.js";
import { attentionJob, go, jobDone as ended, pictureIndex, repaintRequest, showNotice, showProblem, showUnlessUnknown, state, submit, updateForm } from "/page/state.js";
import { AttentionPicture, Slider } from "/page/viewer.js";
import { MOST, emphasis, withWeight, wordsOf } from "/page/words.js";

const SHARES = ["cross_steps", "self_steps", "local"];

/** Sliders for the weight of each word of the form's prompt; they write "(word:1.4)" into it. */
export function Weights() {
  const { prompt } = state.form, words = wordsOf(prompt);
  const set = (place, weight) => updateForm({ prompt: withWeight(prompt, place, weight) });
  if (!words.length) return html`<p class="hint">Write a prompt first.</p>`;
  return html`<div class="weights">${words.map(({ word, weight }, i) => html`<label key=${i}><span>${word}</span>
    <input type="range" min="0" max=${Math.max(2, weight)} step="0.1" value=${weight} aria-label=${`How much ${word} counts`} onInput=${(e) => set(i, Number(e.target.value))} />
    <output>${weight}</output></label>`)}
    <p class="hint">In the prompt, <code>(word:1.4)</code> counts more and <code>[word]</code> less.</p></div>`;
}

/** A short description of changes. */
function describeChanges(changes) {
  return changes.map((change) => {
    const [kind, rest] = [change.slice(0, change.indexOf(":")), change.slice(change.indexOf(":") + 1)];
    const [old, fresh] = [rest.slice(0, rest.lastIndexOf("=")).trim(), rest.slice(rest.lastIndexOf("=") + 1).trim()];
    if (kind === "replace") return fresh ? `${old} → ${fresh}` : `− ${old}`;
    if (kind === "weight") return Number(fresh) ? `${old} × ${fresh}` : `without ${old}`;
    return kind === "refine" ? `+ ${rest.trim()}` : "";
  }).filter(Boolean).join(", ");
}

/** A picture of the tree, with the pictures that were made from it. */
function Node({ node, tree, here }) {
  const made = tree.filter((each) => each.parent === node.id), parent = tree.find((each) => each.id === node.parent);
  const tasks = state.models.find((each) => each.name === node.model)?.tasks ?? {};
  const own = describeChanges(node.changes.slice(parent?.changes.length ?? 0));
  const title = !parent && !own ? "the original" : own || tasks[node.task]?.title || "again";
  return html`<li><${Link} to=${`/edit/${node.id}`} aria-current=${node.id === here ? "true" : undefined}><img class="pixels" src=${node.url} alt="" width="44" height="44" /> <span>${title}</span></${Link}>
    ${made.length > 0 && html`<ul>${made.map((each) => html`<${Node} key=${each.id} node=${each} tree=${tree} here=${here} />`)}</ul>`}</li>`;
}

/** The controls that change a word. */
function Word({ word, draft, gain, change }) {
  const { fresh = "", weight = gain } = draft, key = `word-${word}`;
  return html`<div class="panel" role="group" aria-label=${`The word ${word}`}>
    <div class="field"><label for=${`${key}-new`}>In place of “${word}”</label>
      <input id=${`${key}-new`} type="text" value=${fresh} maxlength="200" placeholder=${word} onInput=${(e) => change({ fresh: e.target.value })} /></div>
    <div class="field"><label for=${`${key}-weight`}>How much it counts</label>
      <div class="slide"><input id=${`${key}-weight`} type="range" min="0" max=${Math.max(3, gain)} step="0.1" value=${weight} onInput=${(e) => change({ weight: Number(e.target.value) })} />
        <${DeferredInput} type="number" min="0" max=${MOST} step="0.1" value=${weight} aria-label=${`How much ${word} counts, as a number`} change=${(text) => change({ weight: Math.max(0, Math.min(MOST, Number(text) || 0)) })} /></div></div>
    <div class="field switch"><label><input type="checkbox" role="switch" checked=${weight === 0} onChange=${(e) => change({ weight: e.target.checked ? 0 : gain || 1 })} /><span>Switch it off</span></label></div>
  </div>`;
}

const pageCache = new Map(); // the pages of this visit, so that going back needs no loading

export function Edit({ id }) {
  const [page, setPage] = useState(pageCache.get(id) ?? null), [draft, setDraft] = useState({}), [added, setAdded] = useState(""), [shares, setShares] = useState({});
  const [chosen, choose] = useState(null), [lit, light] = useState(null), [looked, setLooked] = useState(null), [painting, setPainting] = useState(null);
  const title = useRef(null), there = useRef(true), made = [...state.jobs.values()].filter((each) => each.inputs?.parent === id && each.state === "done").length; // also before a reload
  useEffect(() => {
    there.current = true;
    untilReachable(() => Promise.all([get(`/api/v1/history/${id}`), get(`/api/v1/history/${id}/edits`)]), showProblem).then(([one, { pictures: tree }]) => {
      pageCache.set(id, { ...one, tree });
      if (there.current) setPage(pageCache.get(id));
    }).catch((error) => { setPage({}); showUnlessUnknown(error); });
    return () => { there.current = false; };
  }, [id, made]);
  useEffect(() => { if (page?.picture && document.activeElement === document.body) title.current?.focus({ preventScroll: true }); }, [Boolean(page)]);
  if (!page) return html`<div class="viewer"></div>`;
  const { picture, job, tree } = page, does = state.models.find((each) => each.name === job?.model)?.tasks;
  if (!picture || !job) return html`<${NotFound} what="picture" />`;
  const changes = job.params.changes ?? [], { prompt, gains } = applyChanges(job.params.prompt, changes), plain = emphasis(prompt).text, words = wordsOf(prompt);
  const able = does?.reword && job.task === "paint" && words.length > 0;
  const parent = tree.find((each) => each.id === (job.inputs.parent ?? job.inputs.image)), root = tree[0];
  const gain = (word) => gains[word.toLowerCase()] ?? 1, of = (word) => draft[word.toLowerCase()] ?? {};
  const unique = [...new Map(words.map((each) => [each.word.toLowerCase(), each.word])).values()];
  const more = unique.flatMap((word) => {
    const { fresh = "", weight = gain(word) } = of(word), now = fresh.trim() || word;
    return [...(now !== word ? [`replace:${word}=${now}`] : []), ...(weight !== gain(word) ? [`weight:${now}=${weight}`] : [])];
  });
  if (added.trim()) more.push(`refine:${added.trim()}`);
  const wanted = [...changes, ...more, ...SHARES.filter((name) => name in shares).map((name) => `${name}:${shares[name]}`)];
  const maps = looked && (state.jobs.get(looked)?.outputs ?? []), running = painting && state.jobs.get(painting);

  const see = (i) => {
    choose(i);
    light(i);
    if (!looked && does.attention) attentionJob(picture, { model: job.model, params: { prompt } }).then(setLooked).catch(showProblem);
  };
  /** The attention map of a word: the model has maps for the words that it knows, in their order. */
  const mapOf = (i) => {
    if (i === null || !maps) return null;
    const same = (map) => map.settings.word.toLowerCase() === words[i].word.toLowerCase();
    const before = words.slice(0, i).filter((each) => each.word.toLowerCase() === words[i].word.toLowerCase()).length;
    return maps.filter(same)[before]?.url ?? null;
  };
  const paint = async (event) => {
    event.preventDefault();
    if (!more.length || painting !== null) return;
    const again = repaintRequest(picture, job), { hint } = job.inputs;
    setPainting("");
    try {
      const { id: sent } = await submit({ ...again, params: { ...again.params, controls: [], changes: wanted }, inputs: { parent: picture.id, ...(hint && { hint }) } });
      if (there.current) setPainting(sent);
      const done = await ended(sent);
      if (done.state !== "done") throw new Problem(done.error ?? { message: "the change was not painted", hint: "" });
      if (there.current) go(`/edit/${done.outputs[pictureIndex(picture)].id}`);
      else showNotice("the change is painted");
    } catch (error) {
      showProblem(error);
    }
    if (there.current) setPainting(null);
  };
  const map = mapOf(lit), forming = running?.frame, unseen = looked && state.jobs.get(looked)?.error;
  const over = forming ? html`<div class="lit large"><${FramePicture} frame=${forming} place=${0} label=${`${plain}, changing`} /></div>` : map && html`<${AttentionPicture} picture=${picture} words=${plain} map=${map} />`;
  const left = (event) => { const i = [...event.currentTarget.querySelectorAll("button")].indexOf(document.activeElement); light(i < 0 ? null : i); };
  const schema = { properties: Object.fromEntries(SHARES.filter((name) => does?.reword?.schema.properties[name]).map((name) => [name, does.reword.schema.properties[name]])) };
  return html`<article class="viewer edit" aria-label=${`Change the words of ${plain}`}>
    <div class="frame">${parent ? html`<${Slider} before=${parent.url} after=${picture}>${over}</${Slider}>` : over ?? html`<${AttentionPicture} picture=${picture} words=${plain} map=${null} />`}</div>
    <form class="about" onSubmit=${paint}>
      <h1 tabindex="-1" ref=${title}>${plain}</h1>
      ${able ? html`<div class="spoken" role="group" aria-label="Words of the prompt" onMouseLeave=${left}>
        ${words.map(({ word }, i) => {
          const { fresh = "", weight = gain(word) } = of(word), now = fresh.trim();
          return html`<button type="button" key=${i} aria-pressed=${chosen === i} class=${weight === 0 ? "off" : ""} onClick=${() => see(i)} onFocus=${() => see(i)} onBlur=${() => light(null)} onMouseEnter=${() => maps && light(i)}>
            ${now && now !== word ? html`<s>${word}</s> ${now}` : word}${weight === 0 ? html`<span class="hidden"> switched off</span>` : weight !== 1 && html` <small>× ${weight}</small>`}</button>`;
        })}</div>
        ${chosen === null ? html`<p class="hint">Choose a word to see where the model looks for it, and to replace it, change its weight, or switch it off.</p>`
          : html`<${Word} key=${words[chosen].word} word=${words[chosen].word} draft=${of(words[chosen].word)} gain=${gain(words[chosen].word)}
            change=${(part) => { const key = words[chosen].word.toLowerCase(); setDraft({ ...draft, [key]: { ...draft[key], ...part } }); }} />`}
        ${unseen && html`<p class="hint">Where the model looks cannot be shown: ${unseen.message}.</p>`}
        <div class="field"><label for="add-words">Add words</label><input id="add-words" type="text" maxlength="400" value=${added} placeholder="with a hat" onInput=${(e) => setAdded(e.target.value)} /></div>
        <div class="go"><button class="paint" disabled=${!more.length || painting !== null}>${painting !== null ? "Painting …" : "Paint the change"}</button>
          <button type="button" class="second" disabled=${!more.length} onClick=${() => { setDraft({}); setAdded(""); }}>Discard</button></div>
        <details class="more"><summary>How much of the picture stays</summary><${Form} prefix="edit" schema=${schema} values=${shares} change=${setShares} /></details>`
        : html`<p class="hint">Words can be changed in pictures that a model with cross-attention painted from words alone.</p>`}
      <section class="tree" aria-label="Edits"><h2>Edits</h2>${root && html`<ul><${Node} node=${root} tree=${tree} here=${id} /></ul>`}</section>
      <div class="links"><${Link} to=${`/p/${id}`} class="quiet"><${Icon} name="right" /> This picture and its settings</${Link}></div>
    </form>
  </article>`;
}
