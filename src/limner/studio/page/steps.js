// A slider over the number of steps, which paints a picture again as it is moved.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { FramePicture, Link, exactDuration } from "/page/parts.js";
import { status } from "/page/stage.js";
import { cancel, go, isMine, isOpen, loadBoard, pictureIndex, repaintRequest, showProblem, state, submit } from "/page/state.js";

const STOPS = [1, 2, 4, 8, 16, 32, 64, 128], PAUSE = 200; // milliseconds that the slider rests on a number

const stepsOf = ({ params }) => params.sampler.steps ?? null;
const stepsText = (steps) => (steps === null ? "its own number of steps" : `${steps} step${steps === 1 ? "" : "s"}`);

/** The numbers to choose from: powers of two that the option allows, and the picture's own number, which is null if its model decides. */
function stopsOf({ anyOf = [], ...plain }, own) {
  const { minimum = 1, maximum = Infinity } = anyOf.find((each) => each.type === "integer") ?? plain;
  const known = [...new Set([...STOPS, ...(own === null ? [] : [own])])].filter((each) => each >= minimum && each <= maximum).sort((a, b) => a - b);
  return own === null ? [...known, null] : known;
}

/** A picture painted with other numbers of steps; each is a job of a grid that belongs to the picture. */
export function Steps({ picture, job, schema, words }) {
  const own = picture.settings.sampler.steps ?? null, stops = stopsOf(schema, own), board = `steps-${picture.id}`;
  const [at, setAt] = useState(stops.indexOf(own)), timer = useRef(null), last = useRef(picture), left = useRef(new Set());
  useEffect(() => { loadBoard(board).catch(showProblem); return () => clearTimeout(timer.current); }, []);
  const ends = (each) => each.state === "cancelled" || (isOpen(each) && left.current.has(each.id));
  const jobs = () => [...state.jobs.values()].filter((each) => each.board === board && !ends(each));
  const find = (steps) => jobs().find((each) => stepsOf(each) === steps);
  const ask = async (steps) => {
    const painting = repaintRequest(picture, job);
    if (!find(steps)) await submit({ ...painting, params: { ...painting.params, sampler: { ...painting.params.sampler, steps } }, board, cell: { x: stops.indexOf(steps), names: [stepsText(steps)] } });
  };
  const rest = (steps) => {
    for (const each of jobs().filter((job) => isOpen(job) && isMine(job) && stepsOf(job) !== steps)) { // the slider was moved on
      left.current.add(each.id);
      cancel(each.id);
    }
    if (steps !== own) ask(steps).catch(showProblem);
  };
  const move = (event) => {
    const next = Number(event.target.value);
    setAt(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(rest, PAUSE, stops[next]);
  };
  const compare = async () => {
    clearTimeout(timer.current);
    try {
      for (const steps of stops) await ask(steps);
      go(`/grid/${board}`);
    } catch (error) {
      showProblem(error);
    }
  };
  const steps = stops[at], version = steps === own ? job : find(steps), here = steps === own ? picture : version?.outputs?.[pictureIndex(picture)];
  if (here) last.current = here; // shown until the next picture comes
  const seconds = here && version.notes && version.notes.seconds / version.outputs.length;
  const remark = version?.error?.message ?? (seconds ? `painted in ${exactDuration(seconds)}` : version && !here ? status(version) : "");
  return html`<div class="path">
    ${version?.frame && !here ? html`<div class="tile forming"><${FramePicture} frame=${version.frame} place=${pictureIndex(picture)} label=${`${words}, forming`} /></div>`
      : html`<${Link} to=${`/p/${last.current.id}`}><img class=${here ? "pixels" : "pixels dim"} src=${last.current.url} width=${picture.width} height=${picture.height} alt=${`${words}, ${stepsText(steps)}`} /></${Link}>`}
    <input type="range" min="0" max=${stops.length - 1} value=${at} aria-label="Steps" aria-valuetext=${stepsText(steps)} onInput=${move} />
    <p class="views"><span role="status">${stepsText(steps)}${remark && `, ${remark}`}</span><button type="button" class="quiet" onClick=${compare}>All side by side</button></p>
  </div>`;
}
