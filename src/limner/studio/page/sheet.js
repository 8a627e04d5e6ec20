// Pictures side by side, with headings above and to the left, as one PNG.

import { saveFile } from "/page/kept.js";

const GAP = 12, LINE = 22, LEAST = 128, MARGIN = 16, LARGEST = 8192;
const PAPER = "#fbf9f5", INK = "#23211f", SOFT = "#6a635b";

const loaded = (url) => new Promise((resolve, reject) => {
  const image = new Image();
  image.onload = () => resolve(image);
  image.onerror = () => reject(new Error("a picture of the sheet cannot be loaded"));
  image.src = url;
});

/** A text, cut so that it is no wider than a cell. */
function truncate(pen, text, width) {
  if (pen.measureText(text).width <= width) return text;
  while (text && pen.measureText(`${text}…`).width > width) text = text.slice(0, -1);
  return `${text}…`;
}

/** A canvas with rows of {url} (or nothing), and headings of columns and rows. Small pictures are enlarged pixel by pixel. */
export async function drawSheet(rows, columns = [], beside = []) {
  const images = await Promise.all(rows.map((row) => Promise.all(row.map((cell) => cell?.url && loaded(cell.url)))));
  const all = images.flat().filter(Boolean), across = Math.max(1, ...rows.map((row) => row.length));
  const side = Math.max(1, ...all.map((image) => Math.max(image.width, image.height)));
  const cell = Math.max(16, Math.min(side * Math.ceil(LEAST / side), Math.floor(LARGEST / Math.max(across, rows.length)) - GAP));
  const pen = document.createElement("canvas").getContext("2d");
  pen.font = "15px Inter, system-ui, sans-serif";
  const left = MARGIN + Math.min(220, Math.max(0, ...beside.filter(Boolean).map((text) => pen.measureText(text).width + GAP))), top = MARGIN + (columns.some(Boolean) ? LINE : 0);
  Object.assign(pen.canvas, { width: Math.ceil(left + across * (cell + GAP) - GAP + MARGIN), height: top + rows.length * (cell + GAP) - GAP + MARGIN });
  Object.assign(pen, { font: "15px Inter, system-ui, sans-serif", imageSmoothingEnabled: false, fillStyle: PAPER });
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  pen.fillStyle = INK;
  columns.forEach((text, x) => pen.fillText(truncate(pen, text, cell), left + x * (cell + GAP), MARGIN + LINE - 10));
  images.forEach((row, y) => {
    pen.fillStyle = SOFT;
    if (beside[y]) pen.fillText(truncate(pen, beside[y], left - MARGIN - GAP), MARGIN, top + y * (cell + GAP) + LINE);
    row.forEach((image, x) => {
      if (!image) return;
      const scale = cell / Math.max(image.width, image.height), [width, height] = [image.width * scale, image.height * scale];
      pen.drawImage(image, left + x * (cell + GAP) + (cell - width) / 2, top + y * (cell + GAP) + (cell - height) / 2, width, height);
    });
  });
  return pen.canvas;
}

/** Let the browser save such a sheet. */
export async function saveSheet(rows, columns, beside, name = "limner-sheet.png") {
  const canvas = await drawSheet(rows, columns, beside);
  saveFile(await new Promise((resolve) => canvas.toBlob(resolve, "image/png")), name);
}
