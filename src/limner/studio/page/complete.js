// Completion of the word that is being typed: a list under the field, which does not take over any key by itself.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { get } from "/page/api.js";

const PAUSE = 120, FEWEST = 2, SHOWN = 6, KNOWN = 200;
const known = new Map(); // earlier answers, so that they are not requested again

/** The word before the caret; empty if the caret is inside a word. */
function wordAt({ value, selectionStart, selectionEnd }) {
  if (selectionStart !== selectionEnd || /^[\p{L}\p{N}_]/u.test(value.slice(selectionStart))) return "";
  return /(?:__)?[\p{L}\p{N}-]*$/u.exec(value.slice(0, selectionStart))[0];
}

async function find(start) {
  if (!known.has(start)) {
    if (known.size > KNOWN) known.clear();
    known.set(start, (await get(`/api/v1/words?${new URLSearchParams({ start, limit: SHOWN })}`)).words);
  }
  return known.get(start);
}

/** Forget earlier answers, because the lists of words have changed. */
export const forgetLists = () => known.clear();

/**
 * Completion for a text area: the attributes that it needs, and the list.
 * Nothing is chosen until an arrow is pressed, so that Enter and Tab do what they always do.
 */
export function useCompletion(area, on) {
  const [words, setWords] = useState([]), [at, setAt] = useState(-1);
  const latest = useRef(""), timer = useRef(null);
  const close = () => { clearTimeout(timer.current); latest.current = ""; setWords([]); setAt(-1); };
  useEffect(() => () => clearTimeout(timer.current), []);
  const typed = () => {
    close();
    const start = on && area.current ? wordAt(area.current) : "";
    if (start.length < FEWEST || start.length > 40) return;
    latest.current = start;
    timer.current = setTimeout(() => {
      find(start).then((answer) => { if (latest.current === start) setWords(answer); }).catch(() => {}); // completion is optional
    }, PAUSE);
  };
  const take = (word) => {
    const box = area.current, end = box.selectionStart, start = end - wordAt(box).length;
    box.focus();
    box.setSelectionRange(start, end);
    if (!document.execCommand("insertText", false, word)) { // so that the field's own undo works
      box.setRangeText(word, start, end, "end");
      box.dispatchEvent(new Event("input", { bubbles: true }));
    }
    close();
  };
  const press = (event) => {
    if (!words.length || event.ctrlKey || event.metaKey || event.altKey) return close();
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const handled = () => { event.preventDefault(); event.stopPropagation(); };
    if (step) { handled(); setAt(((at < 0 && step < 0 ? 0 : at) + step + words.length) % words.length); }
    else if (event.key === "Escape") { handled(); close(); }
    else if ((event.key === "Enter" || event.key === "Tab") && at >= 0) { handled(); take(words[at]); }
    else if (["Tab", "ArrowLeft", "ArrowRight", "Home", "End"].includes(event.key)) close();
  };
  const attributes = {
    "aria-autocomplete": "list", "aria-haspopup": "listbox", "aria-controls": words.length ? "completions" : undefined, autocomplete: "off",
    "aria-activedescendant": at >= 0 ? `completion-${at}` : undefined, onKeyDown: press, onBlur: close, onPointerDown: close,
  };
  const list = html`${words.length > 0 && html`<ul id="completions" class="completions" role="listbox" aria-label="Words that the model knows">
      ${words.map((word, i) => html`<li id=${`completion-${i}`} key=${word} role="option" aria-selected=${i === at} onMouseDown=${(e) => e.preventDefault()} onClick=${() => take(word)}>${word}</li>`)}</ul>`}
    <p class="hidden" role="status">${at < 0 && words.length ? `${words.length} word${words.length > 1 ? "s" : ""} to choose from with the arrow down key: ${words.join(", ")}` : ""}</p>`;
  return { typed, attributes, list };
}
