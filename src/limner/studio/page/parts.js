// Small components and functions that several views share.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { AWAY, Problem, findStudio } from "/page/api.js";
import { readStored, writeStored } from "/page/kept.js";
import { applyChanges } from "/page/settings.js";
import { LONG, go, showNotice, showProblem, state } from "/page/state.js";

const PATHS = {
  dice: "M5 3h14a2 2 0 0 1 2 2v14a2 2 0 0 1-2 2H5a2 2 0 0 1-2-2V5a2 2 0 0 1 2-2zM8 8h.01M16 16h.01M16 8h.01M8 16h.01M12 12h.01",
  lock: "M6 11h12v9H6zM8.5 11V7.5a3.5 3.5 0 0 1 7 0V11",
  unlock: "M6 11h12v9H6zM8.5 11V7.5a3.5 3.5 0 0 1 6.8-1.2",
  star: "M12 3.6l2.6 5.3 5.8.8-4.2 4.1 1 5.8-5.2-2.8-5.2 2.8 1-5.8L3.6 9.700l5.8-.8z",
  close: "M6 6l12 12M18 6L6 18",
  left: "M15 5l-7 7 7 7",
  right: "M9 5l7 7-7 7",
  down: "M12 4v12M7 11l5 5 5-5M5 20h14",
  copy: "M9 9h11v11H9zM15 9V4H4v11h5",
  trash: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  again: "M4 12a8 8 0 1 1 2.4 5.700M4 20v-5h5",
  spark: "M12 3v5M12 16v5M3 12h5M16 12h5M6 6l3 3M15 15l3 3M18 6l-3 3M9 15l-3 3",
  sun: "M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8zM12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.400M17.6 17.600L19 19M19 5l-1.4 1.400M6.4 17.600L5 19",
  moon: "M20 14.500A8.5 8.5 0 0 1 9.5 4a8 8 0 1 0 10.5 10.500z",
  link: "M10 14a4 4 0 0 0 5.7 0l3-3a4 4 0 0 0-5.7-5.700l-1 1M14 10a4 4 0 0 0-5.7 0l-3 3a4 4 0 0 0 5.7 5.700l1-1",
};

export function Icon({ name, filled, path = PATHS[name] }) {
  return html`<svg class=${filled ? "icon filled" : "icon"} viewBox="0 0 24 24" aria-hidden="true"><path d=${path} /></svg>`;
}

const parts = []; // the functions that load the parts that are not loaded at first

/** Load the remaining parts one by one, so that they are there even if the studio stops answering. */
export async function loadAhead() {
  for (const load of parts) await load().catch(findStudio);
}

/** A component whose module, and style sheet if it has one, is loaded when it is first shown, or ahead. */
export function lazy(file, part, styled = true) {
  let loaded = null, loading = null, missed = false;
  const style = () => new Promise((resolve, reject) => {
    const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href: `/page/${file}.css`, onload: resolve, onerror: () => { link.remove(); reject(new Problem(AWAY)); } });
    document.head.append(link);
  });
  const load = () => (loading ??= Promise.all([import(`/page/${file}.js`), styled && style()]).then(([module]) => { loaded = module; }, (error) => {
    [loading, missed] = [null, true];
    throw error;
  }));
  parts.push(load);
  return function Later(props) {
    const [, again] = useState(false);
    useEffect(() => {
      let gone = false;
      const before = missed;
      const fail = async (error) => {
        showProblem(new Problem(AWAY));
        const away = await findStudio();
        if (gone) return;
        if (away || before) location.reload(); // a browser remembers that a module could not be loaded, until the page is loaded again
        else showProblem(error);
      };
      if (!loaded) load().then(() => gone || again(true), fail);
      return () => { gone = true; };
    }, []);
    return loaded && html`<${loaded[part]} ...${props} />`;
  };
}

/** Whether a call of `act` is under way, and `act` itself, which does nothing meanwhile: a double click counts once. */
export function useOnce(act) {
  const under = useRef(false), [busy, setBusy] = useState(false);
  const once = async (...values) => {
    if (under.current) return;
    setBusy((under.current = true));
    await Promise.resolve(act(...values)).finally(() => setBusy((under.current = false)));
  };
  return [busy, once];
}

/** A handler of keys: Enter calls `act`, and does not send the form around the field. */
export const onEnter = (act) => (event) => {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.isComposing) return;
  event.preventDefault();
  act();
};

/** A link that changes the view without loading the page again. */
export function Link({ to, children, ...rest }) {
  const follow = (event) => {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    go(to);
  };
  return html`<a href=${to} onClick=${follow} ...${rest}>${children}</a>`;
}

/** A problem: what went wrong, and what to do. If it is out of sight, a notice says it, too. */
export function Alert({ problem = state.problem }) {
  const place = useRef(null);
  useEffect(() => {
    const { top, bottom } = place.current?.getBoundingClientRect() ?? {};
    if (bottom < 0 || top > innerHeight) showNotice([problem.message, problem.hint].filter(Boolean).join("; "), null, LONG);
  }, [problem]);
  return problem && html`<p class="problem" role="alert" ref=${place}>${problem.message}${problem.hint && html`<span>${problem.hint}</span>`}</p>`;
}

/** Shown for an address that leads to nothing. */
export const NotFound = ({ what, hint = "It may have been deleted." }) => html`<section><h1>There is no such ${what}</h1><p class="hint">${hint} <${Link} to="/" class="link">To the studio</${Link}></p></section>`;

const decoded = new WeakMap();

function bitmap(frame) {
  if (!decoded.has(frame)) {
    const bytes = Uint8Array.from(atob(frame.webp), (letter) => letter.charCodeAt(0));
    decoded.set(frame, createImageBitmap(new Blob([bytes], { type: "image/webp" })));
  }
  return decoded.get(frame);
}

/** Picture `place` of a frame, which holds several side by side. */
export function FramePicture({ frame, place, label }) {
  const canvas = useRef(null);
  useEffect(() => {
    let stale = false;
    bitmap(frame).then((image) => {
      if (stale || !canvas.current) return;
      const width = image.width / frame.pictures;
      Object.assign(canvas.current, { width, height: image.height });
      canvas.current.getContext("2d").drawImage(image, -place * width, 0);
    });
    return () => { stale = true; };
  }, [frame, place]);
  return html`<canvas ref=${canvas} class="pixels" role="img" aria-label=${label}></canvas>`;
}

export async function copyText(text, what) {
  try {
    if (navigator.clipboard) await navigator.clipboard.writeText(text);
    else if (!copiedBySelecting(text)) throw new Error("refused");
    showNotice(`${what} copied`);
  } catch {
    showNotice("this browser does not let pages copy; select the text and copy it");
  }
}

/** Copy in a page without a secure context, which has no clipboard to write to. */
function copiedBySelecting(text) {
  const area = Object.assign(document.createElement("textarea"), { value: text, className: "hidden" }), focus = document.activeElement;
  document.body.append(area);
  area.select();
  const done = document.execCommand("copy");
  area.remove();
  focus?.focus();
  return done;
}

/** A duration in seconds, in words. */
export function roughDuration(seconds) {
  if (seconds == null) return "";
  if (seconds < 1.5) return "a second";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return `${Math.round(seconds / 60)} min`;
}

/** A measured duration in seconds, as text. */
export function exactDuration(seconds) {
  if (seconds < 0.95) return `${Math.max(1, Math.round(1000 * seconds))} ms`;
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

/** The title of a picture without words of its own: the task, and the source picture or the model. */
function taskTitle(model, task, source) {
  const title = state.models.find((each) => each.name === model)?.tasks[task]?.title ?? (task === "paint" ? "New picture" : task);
  return source ? `${title}: ${source}` : `${title} by ${model}`;
}

/** The title of a job. */
export function caption({ model, task, params, inputs = {}, outputs }) {
  const own = [applyChanges(params.prompt, params.changes).prompt, params.label].filter(Boolean).join(", ");
  return own || taskTitle(model, task, outputs?.[0]?.words || state.history.find((each) => each.id === inputs.image)?.words);
}

/** The title of a picture. */
export function pictureTitle({ words, model, settings }) {
  if (settings?.changes?.length) return applyChanges(settings.prompt, settings.changes).prompt;
  if (words && (settings?.prompt || settings?.labels || !settings?.task)) return words;
  return model ? taskTitle(model, settings?.task ?? "paint", words) : "A picture of yours";
}

export function useTheme() {
  const [theme, set] = useState(() => readStored("limner-theme") ?? "");
  useEffect(() => {
    if (theme) document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    writeStored("limner-theme", theme);
  }, [theme]);
  const dark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return [dark, () => set(dark ? "light" : "dark")];
}
