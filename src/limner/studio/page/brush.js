// Painting a mask over a picture: the brushed part may change.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { Problem, upload } from "/page/api.js";
import { drawMiddle } from "/page/drawing.js";
import { Icon } from "/page/parts.js";
import { PATHS } from "/page/pens.js";
import { beforeSubmit, model, showProblem, state, updateForm } from "/page/state.js";

const SIDE = 256, COLOUR = [0xf0, 0x57, 0x2a], THINNEST = 4, THICKEST = 128, STEPS_BACK = 60, CLOSEST = 8;
const NAMES = { brush: "Brush", eraser: "Eraser" };

const penOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

/** The brushed pixels of a canvas, with one byte for each pixel. */
function maskOf(canvas) {
  const { data } = penOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  return Uint8Array.from({ length: data.length / 4 }, (_, i) => data[4 * i + 3]);
}

/** Show a mask on a canvas. */
function showMask(canvas, mask) {
  const image = new ImageData(canvas.width, canvas.height);
  mask.forEach((value, i) => image.data.set([...COLOUR, value], 4 * i));
  penOf(canvas).putImageData(image, 0, 0);
}

/** The mask in the centre crop of an image file, which is light where the picture may change. */
function readMask(image, { width, height }) {
  const pen = new OffscreenCanvas(width, height).getContext("2d");
  drawMiddle(pen, image, width, height);
  const { data } = pen.getImageData(0, 0, width, height);
  return Uint8Array.from({ length: width * height }, (_, i) => (0.299 * data[4 * i] + 0.587 * data[4 * i + 1] + 0.114 * data[4 * i + 2] > 127 ? 255 : 0));
}

export function Brush({ picture }) {
  const canvas = useRef(null), lens = useRef(null), live = useRef(null);
  const past = useRef({ before: [], after: [], made: 0, sent: 0 }); // earlier and undone masks, and how many changes were made and sent
  const [tool, setTool] = useState("brush"), [size, setSize] = useState(36), [zoom, setZoom] = useState(1);
  const [at, setAt] = useState(null), [message, say] = useState(""), [, again] = useState(0);
  const [, tall, wide] = model().size, height = Math.max(16, Math.round((SIDE * tall) / wide)), feather = state.form.options.feather ?? 0;
  const { before, after } = past.current;

  /** Send the mask, unless that is done; painting waits for it. */
  const save = async () => {
    const own = past.current, { made } = own;
    if (made === own.sent || !canvas.current) return;
    const mask = maskOf(canvas.current), page = new OffscreenCanvas(SIDE, height);
    let sent;
    if (mask.some(Boolean)) {
      const image = new ImageData(SIDE, height);
      mask.forEach((value, i) => image.data.set(value > 127 ? [255, 255, 255, 255] : [0, 0, 0, 255], 4 * i));
      page.getContext("2d").putImageData(image, 0, 0);
      sent = await upload(await page.convertToBlob());
    }
    if (own.sent > made) return; // a later mask was sent first
    own.sent = made;
    if (own.made === made) updateForm({ inputs: { ...state.form.inputs, mask: sent } }, state.problem);
  };
  useEffect(() => { beforeSubmit.add(save); return () => beforeSubmit.delete(save); });
  useEffect(() => { // show a mask that came with a picture's settings, unless something was brushed meanwhile
    const { mask } = state.form.inputs;
    if (!mask) return;
    const image = Object.assign(new Image(), { src: mask.url });
    image.decode().then(() => { if (canvas.current && !past.current.made) showMask(canvas.current, readMask(image, canvas.current)); }).catch(showProblem);
  }, [picture.id]);

  /** Remember a mask as it was before a step. */
  const keep = (mask) => {
    before.push(mask);
    before.splice(0, before.length - STEPS_BACK);
    after.length = 0;
  };
  /** Make a step that can be undone: `act` changes the canvas. */
  const step = (what, act) => {
    keep(maskOf(canvas.current));
    act();
    finished(what);
  };
  const finished = (what) => {
    past.current.made++;
    save().catch(showProblem);
    say(what);
    again((n) => n + 1);
  };
  const turn = (from, to, what) => {
    if (!from.length) return;
    to.push(maskOf(canvas.current));
    showMask(canvas.current, from.pop());
    finished(what);
  };
  const undo = () => turn(before, after, "undone"), redo = () => turn(after, before, "redone");
  const invert = () => step("the brushed part stays, and the rest may change", () => showMask(canvas.current, maskOf(canvas.current).map((value) => 255 - value)));
  const clear = () => step("nothing is brushed", () => penOf(canvas.current).clearRect(0, 0, SIDE, height));
  const open = async (file) => {
    if (!file) return;
    const image = await createImageBitmap(file).catch(() => null);
    if (image) step("the mask is read", () => showMask(canvas.current, readMask(image, canvas.current)));
    else showProblem(new Problem({ message: `${file.name} is not a picture that this browser can read`, hint: "choose a PNG file that is white where the picture may change" }));
  };

  const point = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * height];
  };
  const line = (from, to) => {
    const pen = penOf(canvas.current);
    Object.assign(pen, { strokeStyle: `rgb(${COLOUR})`, lineWidth: size, lineCap: "round", lineJoin: "round", globalCompositeOperation: tool === "eraser" ? "destination-out" : "source-over" });
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
    pen.globalCompositeOperation = "source-over";
  };
  const start = (here, pointer) => {
    live.current = { mask: maskOf(canvas.current), here, pointer };
    line(here, here);
  };
  const go = (here) => { line(live.current.here, here); live.current.here = here; };
  const end = () => {
    const { mask } = live.current;
    live.current = null;
    keep(mask);
    finished(tool === "eraser" ? "erased" : "brushed");
  };
  const leave = () => { showMask(canvas.current, live.current.mask); live.current = null; say("not brushed"); };
  const down = (event) => {
    if (live.current || event.button) return;
    event.preventDefault();
    canvas.current.setPointerCapture(event.pointerId);
    canvas.current.focus({ preventScroll: true });
    setAt(null);
    start(point(event), event.pointerId);
  };
  const move = (event) => {
    if (live.current?.pointer !== event.pointerId) return;
    for (const each of event.getCoalescedEvents?.() ?? []) go(point(each)); // all places between two frames
    go(point(event));
  };
  const up = (event) => { if (live.current?.pointer === event.pointerId) end(); };

  const chosen = (next) => { setTool(next); say(`${NAMES[next]} chosen`); };
  const resize = (factor) => {
    const next = Math.max(THINNEST, Math.min(THICKEST, Math.round(size * factor)));
    setSize(next);
    say(`the brush is ${next} wide`);
  };
  const magnify = (factor) => {
    const next = Math.max(1, Math.min(CLOSEST, zoom * factor)), view = lens.current;
    const [x, y] = at ? [at[0] / SIDE, at[1] / height] : [(view.scrollLeft + view.clientWidth / 2) / view.scrollWidth, (view.scrollTop + view.clientHeight / 2) / view.scrollHeight];
    setZoom(next);
    say(`${next} times as large`);
    requestAnimationFrame(() => view.scrollTo(x * view.scrollWidth - view.clientWidth / 2, y * view.scrollHeight - view.clientHeight / 2));
  };
  const place = ([x, y]) => `${Math.round((100 * x) / SIDE)} % from the left, ${Math.round((100 * y) / height)} % from the top`;
  const follow = (next) => {
    const view = lens.current;
    view.scrollTo((next[0] / SIDE) * view.scrollWidth - view.clientWidth / 2, (next[1] / height) * view.scrollHeight - view.clientHeight / 2);
  };
  const press = (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key], control = event.ctrlKey || event.metaKey;
    const here = at ?? [SIDE / 2, height / 2], key = event.key.toLowerCase();
    const own = { b: () => chosen("brush"), e: () => chosen("eraser"), i: invert, "[": () => resize(1 / 1.25), "]": () => resize(1.25), "+": () => magnify(2), "=": () => magnify(2), "-": () => magnify(0.5) };
    const handled = () => { event.preventDefault(); event.stopPropagation(); };
    if (way && !control && !event.altKey) {
      handled();
      const far = (event.shiftKey ? 32 : 4) / zoom, next = [Math.max(0, Math.min(SIDE, here[0] + way[0] * far)), Math.max(0, Math.min(height, here[1] + way[1] * far))];
      setAt(next);
      if (live.current) go(next);
      follow(next);
      say(`${live.current ? "brushing, " : ""}${place(next)}`);
    } else if (key === " ") {
      handled();
      setAt(here);
      if (live.current) end(); else { start(here, null); say(`${NAMES[tool]} starts, ${place(here)}; move with the arrow keys, Space ends it`); }
    } else if (key === "escape" && live.current) { handled(); leave(); }
    else if (control && (key === "z" || key === "y")) { handled(); (key === "y" || event.shiftKey ? redo : undo)(); }
    else if (!control && !event.altKey && own[key]) { handled(); own[key](); }
  };

  const button = (label, key, icon, act, off) => html`<button type="button" aria-label=${label} title=${`${label.toLowerCase()}${key ? ` (${key})` : ""}`} disabled=${off} onClick=${act}><${Icon} path=${PATHS[icon]} name=${icon} /></button>`;
  const soft = feather && canvas.current ? `blur(${((feather * canvas.current.clientWidth) / wide / 2).toFixed(1)}px)` : "";
  return html`<div class="field">
    <span class="label" id="brush-label">Brush the part that may change, or nothing to change all of it</span>
    <div class="pens" role="group" aria-label="Tools of the mask">
      ${["brush", "eraser"].map((each) => html`<button type="button" key=${each} aria-pressed=${tool === each} aria-label=${NAMES[each]} title=${`${each} (${each[0].toUpperCase()})`} onClick=${() => chosen(each)}><${Icon} path=${PATHS[each]} /></button>`)}
      <span class="gap"></span>
      ${button("Undo", "Ctrl+Z", "undo", undo, !before.length)}${button("Redo", "Ctrl+Y", "redo", redo, !after.length)}${button("Invert", "I", "invert", invert)}${button("Clear", "", "trash", clear, !before.length && !state.form.inputs.mask)}
      <span class="gap"></span>
      ${button("Zoom out", "-", "farther", () => magnify(0.5), zoom === 1)}${button("Zoom in", "+", "closer", () => magnify(2), zoom === CLOSEST)}
    </div>
    <div class="lens" ref=${lens}><div class="brush" style=${{ width: `${100 * zoom}%`, aspectRatio: `${wide} / ${tall}` }}>
      <img class="pixels" src=${picture.url} alt="the picture to be changed" />
      <canvas ref=${canvas} width=${SIDE} height=${height} style=${{ filter: soft }} tabindex="0" role="application" aria-labelledby="brush-label" aria-describedby="brush-help"
        onPointerDown=${down} onPointerMove=${move} onPointerUp=${up} onPointerCancel=${up} onKeyDown=${press}
        onFocus=${(e) => e.target.matches(":focus-visible") && setAt(at ?? [SIDE / 2, height / 2])} onBlur=${() => setAt(null)}></canvas>
      ${at && html`<span class="cross" style=${{ left: `${(100 * at[0]) / SIDE}%`, top: `${(100 * at[1]) / height}%` }}></span>`}
    </div></div>
    <p class="hidden" role="status">${message}</p>
    <div class="slide"><input type="range" min=${THINNEST} max=${THICKEST} value=${size} aria-label="Size of the brush" onInput=${(e) => setSize(Number(e.target.value))} />
      <label class="quiet file"><input type="file" class="hidden" accept="image/*" onChange=${(e) => { open(e.target.files[0]); e.target.value = ""; }} /><${Icon} path=${PATHS.open} /> A mask</label></div>
    <small id="brush-help">Keys: arrows move, Space starts and ends a stroke, [ and ] change its size, + and - zoom.</small>
  </div>`;
}
