// Grids: what stands on an axis, and the jobs of all its combinations.

import { steering } from "/page/settings.js";

/**
 * The values that a person typed for an axis.
 * "1, 2, 3" are themselves; "1-5(2)" is 1, 3, 5; "0-1[5]" is five values from 0 to 1.
 */
export function parse(text, numeric) {
  if (!numeric) return text.split(/\s*[,\n]\s*/).filter((part) => part !== "");
  return text.split(",").flatMap((part) => {
    const range = part.trim().match(/^(-?[\d.]+)\s*-\s*(-?[\d.]+)\s*(?:\(([\d.]+)\)|\[(\d+)\])?$/);
    if (!range) return part.trim() === "" ? [] : [Number(part)];
    const [from, to] = [Number(range[1]), Number(range[2])];
    const exact = (x) => Number(x.toFixed(6));
    if (range[4]) {
      const count = Math.max(1, Math.min(50, Number(range[4])));
      return Array.from({ length: count }, (_, i) => exact(from + ((to - from) * i) / Math.max(1, count - 1)));
    }
    const step = Number(range[3] ?? 1) || 1;
    const count = Math.min(50, Math.floor(Math.abs(to - from) / step + 1e-9) + 1);
    return Array.from({ length: count }, (_, i) => exact(from + Math.sign(to - from) * step * i));
  });
}

/** What an axis can be, for a model: its name and how its values are read. */
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

/** A request to another model: without what it does not know. */
function to(request, name, models) {
  const of = models.find((each) => each.name === name), { params } = request;
  if (!of) return { ...request, model: name };
  const sampler = Object.fromEntries(Object.entries(params.sampler).filter(([key]) => key in of.schema.properties));
  const steers = steering(params.controls ?? [], of, models).map((each) => each.name), follows = of.hint || steers.length;
  const inputs = Object.fromEntries(Object.entries(request.inputs ?? {}).filter(([key]) => follows || !key.startsWith("hint")));
  const words = of.text ? {} : { prompt: "", negative: "" };
  return { ...request, model: name, inputs, params: { ...params, ...words, label: of.labels.includes(params.label) ? params.label : "", sampler, size: of.sizes.includes(params.size) ? params.size : "", ...(params.controls ? { controls: steers } : {}) } };
}

/** A request with the value of an axis in it. */
function put(request, axis, value, all, models) {
  const next = structuredClone(request);
  if (axis.key === "model") return to(next, value, models);
  if (axis.key === "seed") next.params.seed = value;
  else if (axis.key === "label") next.params.label = value;
  else if (axis.key === "prompt") {
    const [first] = all;
    next.params.prompt = next.params.prompt.includes(first) ? next.params.prompt.replaceAll(first, value) : `${next.params.prompt} ${value}`.trim();
  } else {
    const bool = typeof value === "string" && ["true", "yes", "on", ...FALSE].includes(value);
    next.params.sampler[axis.key.slice("sampler.".length)] = bool ? !FALSE.includes(value) : value;
  }
  return next;
}

const bare = ["prompt", "label", "model"]; // whose values speak for themselves

/** All requests of a grid, row by row, with the cell of each. */
export function combinations(request, chosen, models) {
  const lists = [0, 1, 2].map((i) => (chosen[i]?.values.length ? chosen[i].values : [null]));
  const found = [];
  lists[2].forEach((z, k) => lists[1].forEach((y, j) => lists[0].forEach((x, i) => {
    let next = { ...structuredClone(request), params: { ...structuredClone(request.params), n: 1 } };
    [x, y, z].forEach((value, axis) => {
      if (value !== null) next = put(next, chosen[axis], value, lists[axis], models);
    });
    const names = [x, y, z].map((value, axis) => (value === null ? "" : bare.includes(chosen[axis].key) ? String(value) : `${chosen[axis].title} ${value}`));
    found.push({ ...next, cell: { x: i, y: j, z: k, names } });
  })));
  return found;
}
