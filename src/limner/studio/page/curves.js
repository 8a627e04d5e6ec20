// The logged values of a training, drawn as curves as they come in.

import { html } from "/page/vendor/preact.js";

const WIDTH = 320, HEIGHT = 120, FULL = 4;
const figures = (value) => Number(value.toPrecision(FULL)).toLocaleString("en", { maximumSignificantDigits: FULL });

/** The points of a curve, as coordinates; the first tenth, which is steep, does not set the scale. */
function placed(points) {
  const settled = points.slice(Math.min(Math.floor(points.length / 10), points.length - 2)).map(([, value]) => value);
  const low = Math.min(...settled), high = Math.max(...settled), last = points.at(-1)[0] || 1;
  const down = (value) => HEIGHT - 6 - ((Math.min(high, Math.max(low, value)) - low) / (high - low || 1)) * (HEIGHT - 12);
  return points.map(([step, value]) => `${((step / last) * WIDTH).toFixed(1)},${down(value).toFixed(1)}`).join(" ");
}

function Curve({ name, points }) {
  const last = points.at(-1), title = name.replace("held_out.", "held-out ").replaceAll("_", " ").replaceAll(".", ", ");
  const summary = `${title}: ${figures(points[0][1])} at step ${points[0][0]}, ${figures(last[1])} at step ${last[0]}`;
  return html`<figure class="curve">
    <figcaption><span>${title}</span><b>${figures(last[1])}</b></figcaption>
    <svg viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label=${summary}>
      ${points.length > 1 && html`<polyline points=${placed(points)} vector-effect="non-scaling-stroke" />`}</svg>
  </figure>`;
}

const FIRST = /loss/;

/** All curves, the losses first; the other values are folded away. */
export function Curves({ curves }) {
  const known = Object.entries(curves).filter(([, points]) => points.length);
  const first = known.filter(([name]) => FIRST.test(name)), rest = known.filter(([name]) => !FIRST.test(name));
  const drawn = (some) => html`<div class="curves">${some.map(([name, points]) => html`<${Curve} key=${name} name=${name} points=${points} />`)}</div>`;
  if (!known.length) return html`<p class="hint">The first values will appear soon.</p>`;
  return html`${drawn(first.length ? first : known)}
    ${first.length > 0 && rest.length > 0 && html`<details class="more"><summary>All numbers</summary>${drawn(rest)}</details>`}`;
}
