// Grids: the values of their axes, and the jobs of all combinations.

import { nonNull } from "/page/form.js";
import { isValid, namedControls } from "/page/settings.js";

export const MOST = 100; // pictures of a grid

/**
 * The values that were typed for an axis.
 * "1, 2, 3" are three values; "1-5(2)" is 1, 3, 5; "0-1[5]" is five values from 0 to 1. Text that is not a
 * number stays text. A range stops at one value more than a grid may have, which is enough to refuse it.
 */
export function parse(text, numeric) {
  if (!numeric) return text.split(/\s*[,\n]\s*/).filter((part) => part !== "");
  return text.split(",").flatMap((part) => {
    const range = part.trim().match(/^(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*(?:\(([\d.]+)\)|\[(\d+)\])?$/);
    if (!range) return part.trim() === "" ? [] : [isNaN(part) ? part.trim() : Number(part)];
    const [from, to] = [Number(range[1]), Number(range[2])];
    const exact = (x) => Number(x.toFixed(6));
    if (range[4]) {
      const count = Math.max(1, Math.min(MOST + 1, Number(range[4])));
      return Array.from({ length: count }, (_, i) => exact(from + ((to - from) * i) / Math.max(1, count - 1)));
    }
    const step = Number(range[3] ?? 1) || 1;
    const count = Math.min(MOST + 1, Math.floor(Math.abs(to - from) / step + 1e-9) + 1);
    return Array.from({ length: count }, (_, i) => exact(from + Math.sign(to - from) * step * i));
  });
}

/** The possible axes for a model, each with its name and how its values are read. */
export function axes(model, models) {
  const options = Object.entries(model?.schema.properties ?? {}).map(([name, schema]) => {
    const kinds = (schema.anyOf ?? [schema]).map((each) => each.type);
    return { key: `sampler.${name}`, title: name.replaceAll("_", " "), numeric: kinds.some((kind) => kind === "integer" || kind === "number") };
  });
  const text = model?.text ? [{ key: "prompt", title: "word of the prompt", numeric: false, hint: "apple, pear, plum: the first is replaced by the others" }] : [];
  const label = model?.labels.length ? [{ key: "label", title: "class", numeric: false, hint: model.labels.slice(0, 3).join(", ") }] : [];
  const many = models.length > 1 ? [{ key: "model", title: "model", numeric: false, hint: models.slice(0, 3).map((each) => each.name).join(", ") }] : [];
  return [{ key: "seed", title: "seed", numeric: true, hint: "1-4, or 7, 8, 9" }, ...text, ...label, ...many, ...options];
}

const FALSE = ["false", "no", "off"];

/** The request for another model, without the settings that this model does not have. */
function forModel(request, name, models) {
  const of = models.find((each) => each.name === name), { params } = request;
  if (!of) return { ...request, model: name };
  const sampler = Object.fromEntries(Object.entries(params.sampler).filter(([key]) => key in of.schema.properties));
  const steers = namedControls(params.controls ?? [], of, models).map((each) => each.name), follows = of.hint || steers.length;
  const inputs = Object.fromEntries(Object.entries(request.inputs ?? {}).filter(([key]) => follows || !key.startsWith("hint")));
  const words = of.text ? {} : { prompt: "", negative: "" };
  return { ...request, model: name, inputs, params: { ...params, ...words, label: of.labels.includes(params.label) ? params.label : "", sampler, size: of.sizes.includes(params.size) ? params.size : "", ...(params.controls ? { controls: steers } : {}) } };
}

/** The request with the value of an axis set. */
function withAxisValue(request, axis, value, all, models) {
  const next = structuredClone(request);
  if (axis.key === "model") return forModel(next, value, models);
  if (axis.key === "seed") next.params.seed = value;
  else if (axis.key === "label") next.params.label = value;
  else if (axis.key === "prompt") {
    const [first] = all;
    next.params.prompt = next.params.prompt.includes(first) ? next.params.prompt.replaceAll(first, () => value) : `${next.params.prompt} ${value}`.trim();
  } else {
    const bool = typeof value === "string" && ["true", "yes", "on", ...FALSE].includes(value);
    next.params.sampler[axis.key.slice("sampler.".length)] = bool ? !FALSE.includes(value) : value;
  }
  return next;
}

const UNNAMED_AXES = ["prompt", "label", "model"]; // axes whose values need no name before them

/** All requests of a grid, row by row, each with its cell. */
export function combinations(request, chosen, models) {
  const lists = [0, 1, 2].map((i) => (chosen[i]?.values.length ? chosen[i].values : [null]));
  const requests = [];
  lists[2].forEach((z, k) => lists[1].forEach((y, j) => lists[0].forEach((x, i) => {
    let next = { ...structuredClone(request), params: { ...structuredClone(request.params), n: 1 } };
    [x, y, z].forEach((value, axis) => {
      if (value !== null) next = withAxisValue(next, chosen[axis], value, lists[axis], models);
    });
    const names = [x, y, z].map((value, axis) => (value === null ? "" : UNNAMED_AXES.includes(chosen[axis].key) ? String(value) : `${chosen[axis].title} ${value}`));
    requests.push({ ...next, cell: { x: i, y: j, z: k, names } });
  })));
  return requests;
}

const KINDS = { integer: "a whole number", number: "a number", boolean: "true or false" };

/** The allowed values of an option, in words; undefined if there is little to say. */
function allowed(schema) {
  const { type, enum: known, minimum, maximum } = nonNull(schema);
  if (known) return `one of ${known.join(", ")}`;
  const range = minimum === undefined ? "" : maximum === undefined ? ` of at least ${minimum}` : ` from ${minimum} to ${maximum}`;
  return KINDS[type] && `${KINDS[type]}${range}`;
}

/** The reason why a model would refuse a request of a grid, in one line; empty if it would not. */
export function problemWith({ model: name, params }, models) {
  const of = models.find((each) => each.name === name), { seed, prompt, label } = params;
  if (!of) return `There is no model ${name}.`;
  if (!Number.isSafeInteger(seed)) return `A seed is a whole number, not ${seed}.`;
  if (prompt && !of.text) return `The model ${name} paints without words.`;
  if (label && !of.labels.includes(label) && !(/^\d+$/.test(label) && Number(label) < of.labels.length)) return `The model ${name} has no class ${label}.`;
  const [control] = of.over ? [] : namedControls(params.controls ?? [], of, models), known = (control ?? of).schema.properties;
  for (const [key, value] of Object.entries(params.sampler)) {
    const title = key.replaceAll("_", " "), wanted = key in known && allowed(known[key]);
    if (!(key in known)) return `The model ${name} has no option ${title}.`;
    if (!isValid(value, known[key])) return `The option ${title} cannot be ${value}${wanted ? `; it is ${wanted}` : ""}.`;
  }
  return "";
}
