// What this browser stores from visit to visit, and files that it saves.

/** The text stored under a name; null if there is none. */
export function readStored(name) {
  try {
    return localStorage.getItem(name);
  } catch {
    return null;
  }
}

/** Store a text for the next visit, if the browser allows it. */
export function writeStored(name, text) {
  try {
    localStorage.setItem(name, text);
  } catch { /* full or forbidden; this visit continues without it */ }
}

/** A stored form, with the values of `blank` where nothing is stored, or something of a wrong type. */
export function readForm(name, blank) {
  try {
    const kept = Object.entries(JSON.parse(readStored(name) ?? "{}"));
    const kind = (value) => (Array.isArray(value) ? "array" : value === null ? "null" : typeof value);
    return { ...blank, ...Object.fromEntries(kept.filter(([key, value]) => key in blank && kind(value) === kind(blank[key]))) };
  } catch {
    return { ...blank };
  }
}

const OWN = "limner-jobs", OWN_MOST = 300;

/** The ids of the jobs that were submitted in this browser; other people's jobs are not cancelled here. */
export function ownJobs() {
  try {
    const ids = JSON.parse(readStored(OWN) ?? "[]");
    return Array.isArray(ids) ? ids : [];
  } catch {
    return [];
  }
}

export function addOwnJob(id) {
  writeStored(OWN, JSON.stringify([...ownJobs(), id].slice(-OWN_MOST)));
}

/** A stored list, without items that do not satisfy `fits`. */
function listed(name, fits) {
  try {
    const list = JSON.parse(readStored(name) ?? "[]");
    return Array.isArray(list) ? list.filter(fits) : [];
  } catch {
    return [];
  }
}

const PROMPTS = "limner-prompts", PROMPTS_MOST = 50, STYLES = "limner-styles", STYLES_MOST = 100, LETTERS = 2000;
const isText = (value) => typeof value === "string" && value.length <= LETTERS;
export const isStyle = (style) => isText(style?.name) && style.name.trim() !== "" && isText(style.prompt) && isText(style.negative ?? "");

/** The prompts that were painted in this browser, the newest first. */
export const prompts = () => listed(PROMPTS, isText);

export function keepPrompt(prompt) {
  if (prompt.trim()) writeStored(PROMPTS, JSON.stringify([prompt, ...prompts().filter((each) => each !== prompt)].slice(0, PROMPTS_MOST)));
}

/** Styles, which are words added around a prompt: {name, prompt, negative}, where {prompt} stands for what is typed. */
export const styles = () => listed(STYLES, isStyle);
export const keepStyles = (list) => writeStored(STYLES, JSON.stringify(list.filter(isStyle).slice(0, STYLES_MOST)));

/** A prompt and a negative prompt with a style applied. */
export function applyStyle(prompt, negative, name) {
  const style = name && styles().find((each) => each.name === name);
  if (!style) return [prompt, negative];
  const whole = style.prompt.includes("{prompt}") ? style.prompt.replaceAll("{prompt}", () => prompt) : [prompt, style.prompt].filter(Boolean).join(" ");
  return [whole.trim(), [negative, style.negative].filter(Boolean).join(" ")];
}

/** Let the browser save a file. */
export function saveFile(blob, name) {
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
