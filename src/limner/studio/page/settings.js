// Settings of pictures, which may come from anywhere: those that fit the model go into the form.

import { ask } from "/page/api.js";

const DTYPES = ["float32", "bfloat16"];
const bounds = { minimum: (a, b) => a >= b, maximum: (a, b) => a <= b, exclusiveMinimum: (a, b) => a > b, exclusiveMaximum: (a, b) => a < b };
const KINDS = {
  null: (value) => value === null,
  boolean: (value) => typeof value === "boolean",
  integer: Number.isSafeInteger,
  number: Number.isFinite,
  string: (value) => typeof value === "string" && value.length <= 400,
  array: (value, { items = {} }) => Array.isArray(value) && value.length <= 64 && value.every((each) => isValid(each, items)),
};

/** Whether a value satisfies the JSON schema of an option; a schema without a type allows plain values. */
export function isValid(value, schema) {
  if (schema.anyOf) return schema.anyOf.some((each) => isValid(value, each));
  if (schema.enum) return schema.enum.includes(value);
  if ("const" in schema) return value === schema.const;
  if (schema.type === undefined) return typeof value !== "object";
  return KINDS[schema.type]?.(value, schema) === true && Object.entries(bounds).every(([name, holds]) => typeof value !== "number" || schema[name] === undefined || holds(value, schema[name]));
}

/** The controls that fit a model: those that were trained with a base model built like it. */
export const fittingControls = (of, models) => models.filter((each) => of && each.over && each.over === (of.over || of.built) && each.name !== of.name);

/** The controls with the given names that fit a model. */
export const namedControls = (names, of, models) => names.map((name) => fittingControls(of, models).find((each) => each.name === name)).filter(Boolean);

const WORD = "[\\p{L}\\p{N}_]";

/** The prompt after changes of its words, and the factors of the attention to words, as `limner edit` reads them. */
export function applyChanges(prompt = "", changes = []) {
  const gains = {};
  for (const change of Array.isArray(changes) ? changes : []) {
    const at = change.indexOf(":"), kind = change.slice(0, at), rest = change.slice(at + 1), equals = rest.lastIndexOf("=");
    const [old, fresh] = [rest.slice(0, equals).trim(), rest.slice(equals + 1).trim()];
    if (kind === "refine") prompt = `${prompt} ${rest.trim()}`;
    else if (kind === "weight") gains[old.toLowerCase()] = Number(fresh);
    else if (kind === "replace" && old) {
      const match = new RegExp(`(?<!${WORD})${old.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")}(?!${WORD})`, "iu").exec(prompt);
      if (match) prompt = (prompt.slice(0, match.index) + fresh + prompt.slice(match.index + match[0].length)).split(/\s+/).filter(Boolean).join(" ");
    }
  }
  return { prompt, gains };
}

const isText = (most) => (value) => typeof value === "string" && value.length <= most;
const isNumber = (low, high, whole) => (value) => (whole ? Number.isSafeInteger(value) : Number.isFinite(value)) && value >= low && value <= high;
const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);

/** The values that satisfy their schemas, by name; the names of the others are added to `left`. */
function passing(values, schemas, left) {
  return Object.fromEntries(Object.entries(isObject(values) ? values : {}).filter(([name, value]) => {
    const good = name in schemas && isValid(value, schemas[name]);
    if (!good) left.push(name);
    return good;
  }));
}

/**
 * The valid part of settings for the form, which come from a picture or from this browser's storage.
 * Returns the values, and the names of the settings that were left out.
 */
export function checkSettings(settings, model, limits, models) {
  const left = [], most = limits.prompt ?? 2000;
  const take = (name, good, otherwise, value = settings[name]) => {
    if (value === undefined || value === null || value === "") return otherwise;
    if (good(value)) return value;
    left.push(name);
    return otherwise;
  };
  const first = (list) => (Array.isArray(list) ? list[0] : list);
  const tasks = model?.tasks ?? {}, name = settings.task ?? "paint", does = tasks[name]?.shows === "maps" ? undefined : tasks[name];
  if (model && !does) left.push("task");
  const names = does && name === "paint" ? take("controls", (value) => Array.isArray(value) && value.every(isText(400)) && namedControls(value, model, models).length === value.length, []) : [];
  const usual = model?.usual ?? {}, [control] = model?.over ? [] : namedControls(names, model, models), schemas = (control ?? model)?.schema.properties ?? {};
  const known = passing(settings.sampler, schemas, left);
  const differing = Object.entries(known).filter(([name, value]) => JSON.stringify(value) !== JSON.stringify(usual[name] ?? schemas[name].default ?? null));
  const values = {
    task: does ? name : "paint",
    prompt: take("prompt", isText(most), "", first(settings.prompts) ?? settings.prompt),
    negative: take("negative", isText(most), ""),
    label: take("label", (value) => !model?.labels.length || model.labels.includes(value), "", first(settings.labels) ?? settings.label),
    n: Math.min(take("n", isNumber(1, 10_000, true), 1), limits.pictures ?? 16),
    seed: take("seed", isNumber(-(2 ** 53), 2 ** 53, true), 0),
    vary: take("vary", isNumber(0, 1), 0),
    dtype: take("dtype", (value) => DTYPES.includes(value), "float32"),
    size: take("size", (value) => does?.sized && model.sizes.includes(value), ""),
    sampler: Object.fromEntries(differing),
    controls: names,
    changes: tasks.reword ? take("changes", (value) => Array.isArray(value) && value.length <= 64 && value.every(isText(most)), []) : [],
    options: does ? passing(settings.options, does.schema.properties ?? {}, left) : {},
  };
  return [values, left];
}

/** The pictures that a picture was made from, as inputs of the form; null for each that is gone. */
export async function inputsOf(settings) {
  const named = Object.entries(isObject(settings.inputs) ? settings.inputs : {}).filter(([, sha]) => /^[0-9a-f]{64}$/.test(sha));
  const entries = await Promise.all(named.slice(0, 8).map(async ([name, sha]) => [name, await ask("GET", `/api/v1/assets?sha256=${sha}`).catch((problem) => {
    if (problem.code !== "unknown") throw problem;
    return null;
  })]));
  return Object.fromEntries(entries);
}
