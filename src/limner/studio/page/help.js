// "What is this?" next to an option: a help text that is shown on request.

import { html, useState } from "/page/vendor/preact.js";

const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1) + (/[.?!]$/.test(text) ? "" : ".");

/** A button next to the name of an option, and the help that it shows; a screen reader reads the help with the option's field. */
export function useHelp(id, name, text) {
  const [open, turn] = useState(false);
  if (!text) return {};
  return {
    described: `${id}-help`,
    button: html`<button type="button" class="why" aria-expanded=${open} aria-controls=${`${id}-help`} aria-label=${`What is this? ${name}`} title="What is this?" onClick=${() => turn(!open)}>?</button>`,
    note: html`<small id=${`${id}-help`} hidden=${!open}>${sentence(text)}</small>`,
  };
}

/** A field of the form with its name, its help, and its control; `control` is a function of the id of the help. */
export function LabelledField({ id, name, help, control, label = true, extra = "" }) {
  const { button, note, described } = useHelp(id, name, help);
  return html`<div class=${`field ${extra}`}><div class="named">${label ? html`<label for=${id}>${name}</label>` : html`<span class="label" id=${`${id}-label`}>${name}</span>`}${button}</div>${control(described)}${note}</div>`;
}
