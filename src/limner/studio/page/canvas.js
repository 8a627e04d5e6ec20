// A canvas for the hint that steers a model: a drawing, stamped boxes, or the edges of a picture.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { upload } from "/page/api.js";
import { Pixels, TOOLS, UNIT, packShapes, paperOf, pixelsOf, unpackShapes, withValues } from "/page/drawing.js";
import { Form } from "/page/form.js";
import { capitalise, hintWords } from "/page/hints.js";
import { FramePicture, Icon } from "/page/parts.js";
import { PATHS } from "/page/pens.js";
import { beforeSubmit, hintModels, makeHint, model, newPromptSettings, showProblem, state, updateForm } from "/page/state.js";

const NAMES = { brush: "Brush", eraser: "Eraser", line: "Line", ellipse: "Ellipse", rectangle: "Rectangle", box: "Box with words" };
const KEYS = { b: "brush", e: "eraser", l: "line", o: "ellipse", r: "rectangle", w: "box" };
const FREE = ["brush", "eraser"];
const KEPT_LETTERS = 19_000; // slightly fewer than the studio reads of a picture's settings
const INK = [35, 33, 31], OVER = [214, 69, 20]; // colours of a drawing on paper, and over a picture

/** The drawing. It outlives the view, so that nothing is lost when the view is left. */
const drawing = { turn: {}, shapes: [], undone: [], made: 0, sent: 0, of: null, paper: null, wanted: null, pixels: null, pictures: new Map() };

/** Draw all pixels again, without pictures that are gone. Returns whether every picture is still there. */
async function repaint(paper) {
  drawing.wanted = paper;
  const { shapes } = drawing, ids = [...new Set(shapes.filter((each) => each.tool === "picture").map((each) => each.id))];
  const entries = await Promise.all(ids.map(async (id) => [id, await pixelsOf(`/api/v1/assets/${id}`, paper).catch(() => null)]));
  if (drawing.shapes !== shapes || drawing.wanted !== paper) return true;
  Object.assign(drawing, { paper, pictures: new Map(entries.filter(([, pixels]) => pixels)) });
  redraw();
  return entries.every(([, pixels]) => pixels);
}

function redraw() {
  const { shapes, paper, pictures } = drawing, from = shapes.findLastIndex((each) => each.tool === "clear" || each.tool === "picture");
  drawing.pixels = new Pixels(paper);
  for (const shape of shapes.slice(Math.max(0, from))) drawing.pixels.draw(shape, pictures);
}

/** Load the drawing of a hint from its settings, or else its pixels; an empty drawing if there is no hint. */
async function load(hint, paper) {
  const kept = hint && unpackShapes(hint.settings?.drawing), flat = hint ? [{ tool: "picture", id: hint.id }] : [];
  Object.assign(drawing, { turn: {}, shapes: kept ?? flat, undone: [], made: 0, sent: 0, of: hint?.id ?? null });
  if ((await repaint(paper)) || !kept) return;
  drawing.shapes = flat;
  await repaint(paper);
}

/** Send the drawing, unless that is done; painting waits for it. */
async function save() {
  const { turn, made, pixels, paper, shapes } = drawing;
  if (made === drawing.sent || !hintModels().length) return;
  let sent;
  if (!pixels.empty) {
    const canvas = new OffscreenCanvas(paper.width, paper.height);
    canvas.getContext("2d").putImageData(new ImageData(pixels.data.slice(), paper.width), 0, 0);
    const blob = await canvas.convertToBlob(), values = { drawing: packShapes(shapes) };
    sent = await upload(JSON.stringify(values).length < KEPT_LETTERS ? await withValues(blob, values) : blob);
  }
  if (drawing.sent >= made || drawing.turn !== turn) return; // this drawing or a later one is sent already, or another drawing was loaded
  Object.assign(drawing, { sent: made, of: sent?.id ?? null });
  if (drawing.made === made) updateForm({ inputs: { ...state.form.inputs, hint: sent } });
}

beforeSubmit.add(save);

const shapesWithWords = () => drawing.shapes.slice(drawing.shapes.findLastIndex((each) => each.tool === "clear") + 1).filter((each) => each.word);

/** Add the words of a box to the prompt, or remove them. */
function nameInPrompt(word, there) {
  const { prompt } = state.form;
  if (!word || !model().text || shapesWithWords().some((each) => each.word === word) !== there) return;
  const known = prompt.toLowerCase().includes(word.toLowerCase());
  if (there && !known) updateForm({ prompt: prompt.trim() ? `${prompt.trim()} and ${word}` : word, ...newPromptSettings() });
  else if (!there && known) updateForm({ prompt: prompt.endsWith(` and ${word}`) ? prompt.slice(0, -word.length - 5) : prompt === word ? "" : prompt, ...newPromptSettings() });
}

function setShapes(shapes, undone) {
  Object.assign(drawing, { shapes, undone, made: drawing.made + 1 });
  redraw();
  save().catch(showProblem);
}

/** The job whose pictures follow this drawing, and are shown beneath it. */
const follower = (hint) => hint && [...state.jobs.values()].reverse().find((job) => job.inputs?.hint === hint.id && (job.frame || job.outputs?.length));

function PictureBeneath({ job }) {
  const [picture] = job.outputs ?? [];
  return picture ? html`<img class="pixels" src=${picture.url} alt="" />` : html`<${FramePicture} frame=${job.frame} place=${0} label="the picture as it forms" />`;
}

export function Canvas({ required }) {
  const [of, ...others] = hintModels(), paper = paperOf(of), [title, called] = hintWords(of), hint = state.form.inputs.hint, job = follower(hint);
  const canvas = useRef(null), live = useRef(null), [tool, setTool] = useState(paper.kind === "boxes" ? "box" : "brush");
  const [size, setSize] = useState(paper.pen), [colour, setColour] = useState("#2d5bd7"), [word, setWord] = useState("");
  const [at, setAt] = useState(null), [message, say] = useState(""), [busy, setBusy] = useState(false), [, again] = useState(0);
  const last = useRef([UNIT / 4, UNIT / 4]); // the size of a stamp
  const step = Math.max(UNIT / 64, UNIT / paper.width);

  /** Show what is drawn, and what is being drawn. */
  const show = () => {
    if (!canvas.current || !drawing.pixels) return;
    let { pixels } = drawing;
    if (live.current) (pixels = pixels.copy()).draw(live.current.shape, drawing.pictures);
    const image = new ImageData(pixels.data.slice(), paper.width), ink = job ? OVER : INK;
    if (!paper.colours) for (let i = 0; i < image.data.length; i += 4) image.data.set([...ink, image.data[i]], i);
    canvas.current.getContext("2d").putImageData(image, 0, 0);
  };
  const changed = () => { show(); again((n) => n + 1); };
  useEffect(() => {
    if (hint?.id !== state.form.inputs.hint?.id) return; // a late call; the next one has the current hint
    const same = (hint?.id ?? null) === drawing.of || drawing.made !== drawing.sent;
    const fits = same && JSON.stringify(drawing.paper) === JSON.stringify(paper);
    if (fits) return show();
    const loading = same ? repaint(paper).then(() => { if (drawing.shapes.length) drawing.made++; return save(); }) : load(hint, paper);
    loading.then(changed).catch(showProblem);
  }, [hint?.id, of.name]);
  useEffect(show);

  const point = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * UNIT, ((event.clientY - box.top) / box.height) * UNIT].map((x) => Math.max(0, Math.min(UNIT - 1, Math.round(x))));
  };
  const start = (here, pointer) => {
    const own = { tool, size, points: [here], ...(paper.colours ? { colour } : {}), ...(tool === "box" && word.trim() ? { word: word.trim().slice(0, 60) } : {}) };
    live.current = { shape: own, pointer };
    show();
  };
  const go = (here) => {
    const { shape } = live.current, before = shape.points.at(-1);
    if (!FREE.includes(shape.tool)) shape.points = [shape.points[0], here];
    else if (Math.hypot(here[0] - before[0], here[1] - before[1]) >= Math.min(8, UNIT / paper.width / 2)) shape.points.push(here);
  };
  const end = () => {
    const { shape } = live.current;
    live.current = null;
    const [[ax, ay], [bx, by]] = [shape.points[0], shape.points.at(-1)];
    if (shape.tool === "box") {
      if (Math.abs(ax - bx) < 12 && Math.abs(ay - by) < 12) { // pressed, not drawn: a stamp
        const [w, h] = last.current;
        const left = Math.max(0, Math.min(UNIT - w, bx - w / 2)), top = Math.max(0, Math.min(UNIT - h, by - h / 2));
        shape.points = [[left, top], [left + w, top + h]].map((pair) => pair.map(Math.round));
      } else last.current = [Math.abs(ax - bx), Math.abs(ay - by)];
    }
    setShapes([...drawing.shapes, shape], []);
    nameInPrompt(shape.word, true);
    say(`${NAMES[shape.tool]}${shape.word ? `, ${shape.word},` : ""} drawn`);
    changed();
  };
  const down = (event) => {
    if (live.current || event.button) return;
    canvas.current.setPointerCapture(event.pointerId);
    canvas.current.focus({ preventScroll: true });
    event.preventDefault();
    setAt(null);
    start(point(event), event.pointerId);
  };
  const move = (event) => {
    if (live.current?.pointer !== event.pointerId) return;
    for (const each of event.getCoalescedEvents?.() ?? [event]) go(point(each));
    go(point(event));
    show();
  };
  const up = (event) => { if (live.current?.pointer === event.pointerId) end(); };
  const undo = () => {
    const shape = drawing.shapes.at(-1);
    if (!shape) return;
    setShapes(drawing.shapes.slice(0, -1), [...drawing.undone, shape]);
    nameInPrompt(shape.word, false);
    say(`${NAMES[shape.tool] ?? "the last change"} undone`);
    changed();
  };
  const redo = () => {
    const shape = drawing.undone.at(-1);
    if (!shape) return;
    setShapes([...drawing.shapes, shape], drawing.undone.slice(0, -1));
    nameInPrompt(shape.word, true);
    say(`${NAMES[shape.tool] ?? "the last change"} drawn again`);
    changed();
  };
  const clear = () => { setShapes([...drawing.shapes, { tool: "clear" }], []); say("the canvas is empty"); changed(); };
  const chosen = (next) => { setTool(next); live.current = null; say(`${NAMES[next]} chosen`); show(); };
  const place = ([x, y]) => `column ${Math.floor((x * paper.width) / UNIT) + 1}, row ${Math.floor((y * paper.height) / UNIT) + 1}`;
  const press = (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], control = event.ctrlKey || event.metaKey;
    const here = at ?? [UNIT / 2, UNIT / 2], key = event.key.toLowerCase();
    const handled = () => { event.preventDefault(); event.stopPropagation(); };
    if (way && !control && !event.altKey) {
      handled();
      const far = event.shiftKey ? 8 * step : step, next = here.map((x, i) => Math.max(step / 2, Math.min(UNIT - step / 2, x + way[i] * far)));
      setAt(next);
      if (live.current) { go(next); show(); }
      say(`${live.current ? "drawing, " : ""}${place(next)}`);
    } else if (event.key === " ") {
      handled();
      setAt(here);
      if (live.current) { go(here); end(); } else { start(here, null); say(`${NAMES[tool]} starts at ${place(here)}; move with the arrow keys, Space ends it`); }
    } else if (event.key === "Escape" && live.current) { handled(); live.current = null; say("not drawn"); show(); }
    else if (control && (key === "z" || key === "y")) { handled(); (key === "y" || event.shiftKey ? redo : undo)(); }
    else if (!control && !event.altKey && KEYS[key]) { handled(); chosen(KEYS[key]); }
  };
  /** Put a picture under the drawing: traced, as the hint that the model learnt from; otherwise unchanged. */
  const put = async (file, traced) => {
    if (!file) return;
    setBusy(true);
    try {
      const sent = await upload(file), id = traced ? (await makeHint(sent, of.name)).id : sent.id;
      drawing.pictures.set(id, await pixelsOf(`/api/v1/assets/${id}`, paper));
      setShapes([...drawing.shapes, { tool: "picture", id }], []);
      say(traced ? `the ${called} of the picture ${called.endsWith("s") ? "are" : "is"} drawn` : "the picture is drawn");
    } catch (error) {
      showProblem(error);
    }
    setBusy(false);
    changed();
  };
  const traces = Boolean(of.tasks.outline), strength = !others.length && of.schema.properties.control_strength, boxes = shapesWithWords();
  const chooser = (label, traced) => html`<label class="quiet file"><input type="file" class="hidden" accept="image/*" disabled=${busy}
    onChange=${(e) => { put(e.target.files[0], traced); e.target.value = ""; }} /><${Icon} path=${PATHS.open} /> ${label}</label>`;
  const button = (label, icon, act, off) => html`<button type="button" aria-label=${label} title=${label.toLowerCase()} disabled=${off} onClick=${act}><${Icon} path=${PATHS[icon]} name=${icon} /></button>`;
  return html`<div class="field sketch">
    <span class="label" id="sketch-label">${title}${required ? "" : " (optional)"}</span>
    <div class="pens" role="group" aria-label="Tools">
      ${TOOLS.map((each) => html`<button type="button" key=${each} aria-pressed=${tool === each} aria-label=${NAMES[each]}
        title=${`${NAMES[each].toLowerCase()} (${Object.keys(KEYS).find((key) => KEYS[key] === each).toUpperCase()})`} onClick=${() => chosen(each)}><${Icon} path=${PATHS[each]} /></button>`)}
      <span class="gap"></span>
      ${button("Undo", "undo", undo, !drawing.shapes.length)}${button("Redo", "redo", redo, !drawing.undone.length)}${button("Clear", "trash", clear, !drawing.shapes.length)}
    </div>
    <div class=${`easel ${job ? "covers" : ""} ${busy ? "busy" : ""}`} onDragOver=${(e) => { e.preventDefault(); e.stopPropagation(); }}
      onDrop=${(e) => { e.preventDefault(); e.stopPropagation(); put(e.dataTransfer.files[0], traces); }}>
      ${job && html`<${PictureBeneath} job=${job} />`}
      <canvas ref=${canvas} class=${`pixels ${paper.colours ? "colours" : ""} ${paper.filled ? "filled" : ""}`} width=${paper.width} height=${paper.height} tabindex="0" role="application" aria-labelledby="sketch-label" aria-describedby="sketch-help"
        onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${press}
        onFocus=${(e) => e.target.matches(":focus-visible") && setAt(at ?? [UNIT / 2, UNIT / 2])} onBlur=${() => setAt(null)}></canvas>
      ${boxes.map(({ points: [[ax, ay], [bx, by]], word: own }) => html`<span class="word" style=${{ left: `${(100 * Math.round((Math.min(ax, bx) * paper.width) / UNIT)) / paper.width}%`, top: `${(100 * Math.min(ay, by)) / UNIT}%`, width: `${(100 * Math.abs(ax - bx)) / UNIT}%` }}>${own}</span>`)}
      ${at && html`<span class="cross" style=${{ left: `${(100 * at[0]) / UNIT}%`, top: `${(100 * at[1]) / UNIT}%` }}></span>`}
    </div>
    <p class="hidden" role="status">${busy ? "reading the picture" : message}</p>
    ${tool === "box" && html`<input type="text" aria-label="Words of the box" placeholder="what is in the box" maxlength="60" value=${word} onInput=${(e) => setWord(e.target.value)} />`}
    <div class="slide"><input type="range" min=${Math.round(UNIT / paper.width)} max=${Math.max(192, Math.round((4 * UNIT) / paper.width))} step="1" value=${size} aria-label="Width of the pen" onInput=${(e) => setSize(Number(e.target.value))} />
      ${paper.colours ? html`<input type="color" value=${colour} aria-label="Colour of the pen" onInput=${(e) => setColour(e.target.value)} />` : html`<span class="hint">${Math.max(1, Math.round((size * paper.width) / UNIT))} px</span>`}</div>
    <div class="from">${traces && chooser(`${capitalise(called)} of a picture`, true)}
      ${chooser(paper.colours ? "Picture to follow" : "A drawing", false)}</div>
    <small id="sketch-help">Drop a picture here${traces ? ` for its ${called}` : ""}. With the keyboard: arrow keys move, Space starts and ends a line.</small>
    ${strength && html`<${Form} prefix="hint" schema=${{ properties: { control_strength: { ...strength, label: "How strongly it counts" } } }} usual=${of.usual} values=${state.form.sampler} change=${(sampler) => updateForm({ sampler })} />`}
  </div>`;
}
