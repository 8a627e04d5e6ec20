// A form made from a JSON schema of options, which the command line uses, too.

import { html, useState } from "/page/vendor/preact.js";
import { useHelp } from "/page/help.js";

/** The part of a schema that is not null, and whether null is allowed. */
export function nonNull(schema) {
  const kinds = schema.anyOf ?? [schema];
  const kind = kinds.find((each) => each.type !== "null") ?? {};
  return { ...schema, ...kind, optional: kinds.some((each) => each.type === "null") };
}

const label = (name, field = {}) => field.label ?? (name.charAt(0).toUpperCase() + name.slice(1)).replaceAll("_", " ");

/** The text of a field as a number of the schema's kind; undefined when empty. */
function numeric(text, kind) {
  if (text.trim() === "") return undefined;
  const value = Number(text);
  return kind === "integer" ? Math.round(value) : value;
}

/** The text of a field as the JSON value that it looks like. */
function parseValue(text) {
  if (text.trim() === "") return undefined;
  const parts = text.split(",").map((part) => part.trim());
  const values = parts.map((part) => (part !== "" && !isNaN(part) ? Number(part) : part));
  return values.length > 1 ? values : values[0];
}

/** The example of an option's value that its help gives. */
const example = (help) => /as in (\S+?)\.?$/.exec(help ?? "")?.[1];

/** A field whose text takes effect when the field is left or the form is sent; until then, rendering does not replace what is typed. */
export function DeferredInput({ value, change, ...rest }) {
  const [draft, keep] = useState(null);
  return html`<input ...${rest} value=${draft ?? value} onInput=${(e) => keep(e.target.value)}
    onChange=${(e) => { keep(null); change(e.target.value); }} onBlur=${() => keep(null)} />`;
}

const bounded = (field) => [field.minimum ?? field.exclusiveMinimum, field.maximum ?? field.exclusiveMaximum];

function Field({ id, name, schema, help, usual, value, change }) {
  const field = nonNull(schema);
  const standard = usual ?? field.default;
  const { button, note, described } = useHelp(id, label(name, field), help);
  const set = (next) => change(next === standard || next === undefined || Number.isNaN(next) ? undefined : next);

  if (field.type === "boolean") {
    return html`<div class="field switch">
      <label for=${id}><input type="checkbox" role="switch" id=${id} checked=${value ?? standard ?? false} aria-describedby=${described}
        onChange=${(e) => set(e.target.checked)} /><span>${label(name, field)}</span></label>${button}${note}
    </div>`;
  }
  let control;
  const [low, high] = bounded(field);
  if (field.enum) {
    control = html`<select id=${id} aria-describedby=${described} value=${value ?? standard ?? ""} onChange=${(e) => set(e.target.value || undefined)}>
      ${standard == null ? html`<option value="">model default</option>` : null}
      ${field.enum.map((each) => html`<option value=${each}>${each}</option>`)}
    </select>`;
  } else if (field.type === "integer" || field.type === "number") {
    const step = field.type === "integer" ? 1 : "any";
    const shown = value ?? standard ?? "";
    const slides = low !== undefined && high !== undefined && high - low <= 100;
    const number = html`<${DeferredInput} type="number" id=${id} aria-describedby=${described} step=${step} min=${low} max=${high} value=${shown}
      placeholder="auto" change=${(text) => set(numeric(text, field.type))} />`;
    control = !slides ? number : html`<div class="slide">
      <input type="range" aria-label=${label(name, field)} min=${low} max=${Math.min(high, Math.max(10 * Math.abs(standard ?? 1) || high, low + 1))}
        step=${field.type === "integer" ? 1 : 0.05} value=${shown === "" ? low : shown}
        onInput=${(e) => set(numeric(e.target.value, field.type))} />${number}</div>`;
  } else {
    const shown = value ?? standard;
    control = html`<${DeferredInput} type="text" id=${id} aria-describedby=${described} value=${Array.isArray(shown) ? shown.join(", ") : (shown ?? "")}
      placeholder=${example(help) ?? (field.type === "array" ? "such as 1, 2" : standard === "" ? "" : "auto")} change=${(text) => set(parseValue(text))} />`;
  }
  return html`<div class="field"><div class="named"><label for=${id}>${label(name, field)}</label>${button}</div>${control}${note}</div>`;
}

/** All fields of a schema; `values` holds only what differs from the defaults. */
export function Form({ schema, help = {}, usual = {}, values, change, prefix }) {
  const names = Object.keys(schema.properties ?? {});
  return html`<div class="fields">
    ${names.map((name) => html`<${Field} key=${name} id=${`${prefix}-${name}`} name=${name} schema=${schema.properties[name]} help=${help[name] ?? schema.properties[name].description}
      usual=${usual[name]} value=${values[name]}
      change=${(value) => {
        const next = { ...values };
        if (value === undefined) delete next[name];
        else next[name] = value;
        change(next);
      }} />`)}
  </div>`;
}
