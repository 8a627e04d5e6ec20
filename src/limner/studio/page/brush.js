// Painting a mask over a picture: what is brushed may change.

import { html, useEffect, useRef, useState } from "/page/vendor/preact.js";
import { upload } from "/page/api.js";
import { state, trouble, wish } from "/page/state.js";

const SIDE = 256;

export function Brush({ picture }) {
  const canvas = useRef(null), drawing = useRef(false);
  const [size, setSize] = useState(36), [used, setUsed] = useState(false);

  const clear = () => {
    canvas.current.getContext("2d").clearRect(0, 0, SIDE, SIDE);
    setUsed(false);
    if (state.wish.inputs.mask) wish({ inputs: { ...state.wish.inputs, mask: undefined } });
  };
  const stroke = (event) => {
    if (!drawing.current) return;
    const box = canvas.current.getBoundingClientRect(), pen = canvas.current.getContext("2d");
    pen.fillStyle = "#f0572a";
    pen.beginPath();
    pen.arc(((event.clientX - box.left) / box.width) * SIDE, ((event.clientY - box.top) / box.height) * SIDE, size / 2, 0, 2 * Math.PI);
    pen.fill();
  };
  const begin = (event) => { drawing.current = true; canvas.current.setPointerCapture(event.pointerId); stroke(event); };
  const end = async () => {
    if (!drawing.current) return;
    drawing.current = false;
    setUsed(true);
    const mask = new OffscreenCanvas(SIDE, SIDE), pen = mask.getContext("2d");
    pen.drawImage(canvas.current, 0, 0); // what was brushed, white on black
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, SIDE, SIDE);
    pen.globalCompositeOperation = "destination-over";
    pen.fillStyle = "#000";
    pen.fillRect(0, 0, SIDE, SIDE);
    try {
      const sent = await upload(await mask.convertToBlob());
      wish({ inputs: { ...state.wish.inputs, mask: sent } });
    } catch (error) {
      trouble(error);
    }
  };
  useEffect(() => clear(), [picture.id]);

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
