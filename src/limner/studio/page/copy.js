// A job as code: for curl, Python, and the command line. If the studio requires a token, the code reads it from LIMNER_TOKEN.

import { state } from "/page/state.js";

const quoted = (text) => `'${String(text).replaceAll("'", `'\\''`)}'`;
const python = (value) =>
  value === null ? "None" : value === true ? "True" : value === false ? "False"
    : Array.isArray(value) ? `[${value.map(python).join(", ")}]`
      : typeof value === "object" ? `{${Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v)}`).join(", ")}}`
        : JSON.stringify(value);

const bearer = () => (state.limits.token ? ' -H "Authorization: Bearer $LIMNER_TOKEN"' : "");

/** The command that downloads a file of the studio; it writes no file if the studio refuses. */
const download = (name, path) => `curl -f${bearer()} -o ${name} ${location.origin}${path}`;

export function asCurl(request) {
  return `curl -X POST ${location.origin}/api/v1/jobs${bearer()} -H 'Content-Type: application/json' -d ${quoted(JSON.stringify(request))}`;
}

export function asPython({ model, task, params, inputs }) {
  const changed = Object.entries(params).filter(([key, value]) => key !== "prompt" && differs(key, value));
  const named = [["model", model], ...(task === "paint" ? [] : [["task", task]]), ...changed, ...(Object.keys(inputs ?? {}).length ? [["inputs", inputs]] : [])];
  const words = [params.prompt ? python(params.prompt) : '""', ...named.map(([key, value]) => `${key}=${python(value)}`)];
  const [reads, token] = state.limits.token ? ["import os\n\n", ', token=os.environ["LIMNER_TOKEN"]'] : ["", ""];
  return `${reads}from limner.studio.client import Client

pictures = Client(${python(location.origin)}${token}).paint(${words.join(", ")})
for i, png in enumerate(pictures):
    open(f"picture-{i}.png", "wb").write(png)`;
}

const USUAL = { negative: "", label: "", n: 1, seed: 0, vary: 0, dtype: "float32", size: "" };
const differs = (key, value) => (typeof value === "object" ? Object.keys(value).length > 0 : USUAL[key] !== value);

/** The option of `limner edit` that says how much changes, by task. */
const EDITS = { edit: "strength", complete: "keep" };

/** Text that the command line reads as an option anywhere, such as "sampler.scale=3". */
const OPTION = /^([a-z_]+(\.[A-Za-z0-9_]+)*=|sampler\.[a-z_.]+$)/;

/** The job as commands; null if the command line cannot do it. `does` describes the task. */
export function asCommand({ model, task, params, inputs }, does, picture) {
  const again = task === "paint" && !Object.keys(inputs ?? {}).some((name) => name.startsWith("hint"));
  if (params.changes?.length || (task === "paint" && OPTION.test(params.prompt))) return again ? `${download("picture.png", picture.url)}\nlimner sample --from picture.png` : null;
  const own = EDITS[task], options = own && params.options;
  if (task !== "paint" && (!own || params.negative || params.vary || params.dtype === "bfloat16")) return null;
  if (task === "paint" && Object.keys(inputs ?? {}).some((name) => !name.startsWith("hint"))) return null;
  const parts = task === "paint" ? ["limner sample"] : ["limner edit source.png"];
  const dashed = task === "paint" && params.prompt.startsWith("-"); // then it comes last, after the "--" that ends the options
  if (params.prompt && !dashed) parts.push(...(task === "paint" ? [] : ["--prompt"]), quoted(params.prompt));
  if (model !== "emoji") parts.push("-m", quoted(model));
  if (inputs?.mask) parts.push("--mask mask.png");
  for (const name of params.controls ?? []) parts.push("--control", quoted(name));
  const hints = Object.keys(inputs ?? {}).filter((name) => name.startsWith("hint")).sort();
  for (const name of hints) parts.push(`--hint ${name}.png`);
  if (own && !(own === "keep" && inputs?.mask)) parts.push(`--${own}`, options[own] ?? does?.schema.properties[own]?.default);
  if (options?.feather && inputs?.mask) parts.push("--feather", options.feather);
  if (params.negative) parts.push("--negative", quoted(params.negative));
  if (params.label) parts.push("--label", quoted(params.label));
  if (params.n > 1 || own) parts.push("-n", params.n);
  parts.push("--seed", params.seed);
  if (params.vary) parts.push("--vary", params.vary);
  if (params.dtype === "bfloat16") parts.push("--dtype bfloat16");
  if (params.size) parts.push("--size", params.size);
  for (const [key, value] of Object.entries(params.sampler)) parts.push(`sampler.${key}=${[value].flat().join(",")}`);
  if (dashed) parts.push("--", quoted(params.prompt));
  const files = [["source.png", inputs?.image], ["mask.png", inputs?.mask], ...hints.map((name) => [`${name}.png`, inputs[name]])].filter(([, id]) => id);
  return [...files.map(([name, id]) => download(name, `/api/v1/assets/${id}`)), parts.join(" ")].join("\n");
}
