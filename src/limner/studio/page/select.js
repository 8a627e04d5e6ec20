// Selecting several pictures of the gallery, to save them as a zip archive or one PNG, or to delete them.

import { html } from "/page/vendor/preact.js";
import { saveSheet } from "/page/sheet.js";
import { pictureTitle } from "/page/parts.js";
import { deletePictures, loadHistory, set, showProblem, state } from "/page/state.js";

const MOST = 200; // of one archive
let last = null; // the picture from which a click with Shift extends the selection

/** Select or deselect a picture; with Shift, all pictures from the last one to this one. */
function toggle(id, through) {
  const next = new Set(state.selected), on = !next.has(id), ids = state.history.map((each) => each.id);
  const [from, to] = [ids.indexOf(through && last ? last : id), ids.indexOf(id)].sort((a, b) => a - b);
  for (const each of ids.slice(Math.max(0, from), to + 1)) next[on ? "add" : "delete"](each);
  last = id;
  set({ selected: next });
}

/** A picture that can be selected. */
export function SelectablePicture({ picture, alt }) {
  const { id, url, width, height } = picture;
  return html`<label class="tile choice" title=${alt}>
    <input type="checkbox" aria-label=${alt || "a picture"} checked=${state.selected.has(id)} onClick=${(e) => toggle(id, e.shiftKey)} />
    <img class="pixels" src=${url} width=${width} height=${height} alt="" loading="lazy" /></label>`;
}

/** Delete the selected pictures. */
async function forgetAll(pictures) {
  if (await deletePictures(...pictures)) set({ selected: null });
  await loadHistory().catch(showProblem);
}

/** The actions for the selected pictures. */
export function Selection({ pictures }) {
  const some = pictures.filter(({ id }) => state.selected.has(id)), none = !some.length;
  const address = `/api/v1/archive?${new URLSearchParams(some.map(({ id }) => ["id", id]))}`;
  const across = Math.ceil(Math.sqrt(some.length));
  const rows = Array.from({ length: Math.ceil(some.length / across) || 0 }, (_, y) => some.slice(y * across, (y + 1) * across));
  return html`<div class="selection" role="group" aria-label="Selection">
    <span role="status">${some.length} selected</span>
    <button type="button" class="quiet" onClick=${() => set({ selected: new Set(pictures.map(({ id }) => id)) })}>All that are shown</button>
    <button type="button" class="quiet" disabled=${none} onClick=${() => set({ selected: new Set() })}>None</button>
    ${none || some.length > MOST ? some.length > MOST && html`<span>at most ${MOST} in one archive</span>` : html`<a class="quiet" href=${address} download>Download as zip</a>`}
    <button type="button" class="quiet" disabled=${none} onClick=${() => saveSheet(rows.map((row) => row.map((each) => ({ url: each.url, title: pictureTitle(each) })))).catch(showProblem)}>As one PNG</button>
    <button type="button" class="quiet danger" disabled=${none} onClick=${() => forgetAll(some)}>Delete</button>
  </div>`;
}
