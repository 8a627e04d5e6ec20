// Painting a mask over a picture: what is brushed may change.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { upload } from "/page/api.js";
import { state, trouble, unsaved, wish } from "/page/state.js";

const SIDE = 256, COLOUR = "#f0572a";

/** Draw a mask that came with a picture's settings, unless something was brushed meanwhile. */
async function show(canvas, mask, strokes) {
  if (!mask) return;
  const image = new Image();
  image.src = mask.url;
  await image.decode();
  if (strokes.current.made) return;
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0, SIDE, SIDE);
  const pixels = pen.getImageData(0, 0, SIDE, SIDE);
  for (let i = 0; i < pixels.data.length; i += 4) pixels.data.set([0xf0, 0x57, 0x2a, pixels.data[i] > 127 ? 255 : 0], i);
  pen.putImageData(pixels, 0, 0);
}

export function Brush({ picture }) {
  const canvas = useRef(null), drawing = useRef(null), strokes = useRef({ made: 0, sent: 0 });
  const [size, setSize] = useState(36), [used, setUsed] = useState(Boolean(state.wish.inputs.mask));

  const clear = () => {
    canvas.current.getContext("2d").clearRect(0, 0, SIDE, SIDE);
    strokes.current = { made: 0, sent: 0 };
    setUsed(false);
    if (state.wish.inputs.mask) wish({ inputs: { ...state.wish.inputs, mask: undefined } });
  };
  const at = (event) => {
    const box = canvas.current.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE];
  };
  const stroke = (event) => {
    if (!drawing.current) return;
    const pen = canvas.current.getContext("2d"), here = at(event);
    Object.assign(pen, { strokeStyle: COLOUR, lineWidth: size, lineCap: "round" });
    pen.beginPath();
    pen.moveTo(...drawing.current);
    pen.lineTo(...here);
    pen.stroke();
    drawing.current = here;
    strokes.current.made++;
  };
  const begin = (event) => { drawing.current = at(event); canvas.current.setPointerCapture(event.pointerId); setUsed(true); stroke(event); };
  const end = () => {
    drawing.current = null;
    save().catch(trouble);
  };
  /** Send what was brushed, if that is not done; whoever paints waits for it. */
  const save = async () => {
    const own = strokes.current;
    if (own.made === own.sent) return;
    const { made } = own, mask = new OffscreenCanvas(SIDE, SIDE), pen = mask.getContext("2d");
    pen.drawImage(canvas.current, 0, 0); // what was brushed, white on black
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, SIDE, SIDE);
    const sent = await upload(await mask.convertToBlob());
    if (own !== strokes.current) return; // cleared meanwhile
    own.sent = Math.max(own.sent, made);
    if (own.sent === made) wish({ inputs: { ...state.wish.inputs, mask: sent } });
  };
  useEffect(() => { unsaved.add(save); return () => unsaved.delete(save); });
  useEffect(() => { show(canvas.current, state.wish.inputs.mask, strokes); }, [picture.id]);

  return html`<div class="field">
    <span class="label">Brush what may change, or nothing for all of it</span>
    <div class="brush">
      <img class="pixels" src=${picture.url} alt="the picture to be changed" />
      <canvas ref=${canvas} width=${SIDE} height=${SIDE} aria-label="where the picture may change: brush with a mouse, a pen or a finger" role="img"
        onPointerDown=${begin} onPointerMove=${stroke} onPointerUp=${end} onPointerCancel=${end}></canvas>
    </div>
    <div class="slide"><input type="range" min="8" max="96" value=${size} aria-label="Size of the brush" onInput=${(e) => setSize(Number(e.target.value))} />
      <button type="button" class="quiet" disabled=${!used} onClick=${clear}>Clear</button></div>
  </div>`;
}
