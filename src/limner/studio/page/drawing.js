// Drawings: their shapes, the pixels that a model gets of them, and the format in which they are kept.

import { crc32 } from "/page/zip.js";

export const UNIT = 1024; // coordinates are whole numbers from 0 to UNIT - 1
export const TOOLS = ["brush", "eraser", "line", "ellipse", "rectangle", "box"];
const MOST_SHAPES = 2000, MOST_WORD = 60;

/** The paper for hints of a model, which are described by [channels, height, width] and a kind, such as "edges". */
export function paperOf({ hint: [channels, height, width], hint_kind: kind }) {
  const colours = channels > 1;
  return {
    width, height, kind, colours, filled: kind === "mask" || kind === "boxes",
    binary: ["edges", "scribble", "mask", "boxes"].includes(kind), blank: colours ? [255, 255, 255] : [0, 0, 0],
    pen: { mask: 96, boxes: 48, scribble: 48 }[kind] ?? Math.max(colours ? 32 : 0, Math.round(UNIT / width)),
  };
}

const rgb = (colour) => [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));

/** Round half to even, as Python does. */
const rounded = (x) => { const n = Math.round(x); return n - x === 0.5 && n % 2 ? n - 1 : n; };

/** The pixels of a paper, and pens that write into them. */
export class Pixels {
  constructor(paper) {
    this.paper = paper;
    this.data = new Uint8ClampedArray(4 * paper.width * paper.height);
    this.clear();
  }

  copy() {
    const other = new Pixels(this.paper);
    other.data.set(this.data);
    return other;
  }

  clear() {
    for (let i = 0; i < this.data.length; i += 4) this.data.set([...this.paper.blank, 255], i);
  }

  put(x, y, colour) {
    if (x < 0 || y < 0 || x >= this.paper.width || y >= this.paper.height) return;
    this.data.set(colour, 4 * (y * this.paper.width + x));
  }

  /** Fill all pixels in a range whose centres satisfy `passes`. */
  fill(left, top, right, bottom, passes, colour) {
    const { width, height } = this.paper;
    for (let y = Math.max(0, Math.floor(top)); y < Math.min(height, Math.ceil(bottom)); y++) {
      for (let x = Math.max(0, Math.floor(left)); x < Math.min(width, Math.ceil(right)); x++) if (passes(x + 0.5, y + 0.5)) this.put(x, y, colour);
    }
  }

  /** Draw a line with round ends; a thin one has no gaps. */
  line([ax, ay], [bx, by], wide, colour) {
    const [dx, dy] = [bx - ax, by - ay], radius = wide / 2;
    const steps = Math.ceil(Math.max(Math.abs(dx), Math.abs(dy)) * 2) || 1;
    for (let i = 0; i <= steps; i++) this.put(Math.floor(ax + (dx * i) / steps), Math.floor(ay + (dy * i) / steps), colour);
    if (wide < 1.5) return;
    const length = dx * dx + dy * dy;
    const near = (x, y) => {
      const t = length ? Math.max(0, Math.min(1, ((x - ax) * dx + (y - ay) * dy) / length)) : 0;
      return Math.hypot(x - ax - t * dx, y - ay - t * dy) <= radius;
    };
    this.fill(Math.min(ax, bx) - radius, Math.min(ay, by) - radius, Math.max(ax, bx) + radius, Math.max(ay, by) + radius, near, colour);
  }

  lines(points, wide, colour) {
    points.forEach((point, i) => this.line(points[Math.max(0, i - 1)], point, wide, colour));
  }

  /** Draw a shape; `pictures` has the pixels of the drawing's pictures, by id. */
  draw(shape, pictures = new Map()) {
    const { width, height, filled, blank, colours } = this.paper;
    if (shape.tool === "clear") return this.clear();
    if (shape.tool === "picture") return pictures.has(shape.id) && this.data.set(pictures.get(shape.id));
    const colour = shape.tool === "eraser" ? blank : colours ? rgb(shape.colour ?? "#000000") : [255, 255, 255];
    const points = shape.points.map(([x, y]) => [(x * width) / UNIT, (y * height) / UNIT]);
    const wide = Math.max(1, (shape.size * width) / UNIT);
    if (["brush", "eraser", "line"].includes(shape.tool)) return this.lines(points, wide, colour);
    const [[ax, ay], [bx, by]] = [points[0], points.at(-1)];
    const [left, right, top, bottom] = [Math.min(ax, bx), Math.max(ax, bx), Math.min(ay, by), Math.max(ay, by)];
    if (shape.tool === "box" && filled) return this.box(left, top, right, bottom);
    if (shape.tool === "ellipse") {
      const [x, y, rx, ry] = [(left + right) / 2, (top + bottom) / 2, (right - left) / 2, (bottom - top) / 2];
      const round = Array.from({ length: 97 }, (_, i) => [x + rx * Math.cos((i * Math.PI) / 48), y + ry * Math.sin((i * Math.PI) / 48)]);
      if (filled) this.fill(left, top, right, bottom, (u, v) => ((u - x) / (rx || 1)) ** 2 + ((v - y) / (ry || 1)) ** 2 <= 1, colour);
      else this.lines(round, wide, colour);
    } else if (filled) this.fill(left, top, right, bottom, (x, y) => x >= left && x <= right && y >= top && y <= bottom, colour);
    else this.lines([[left, top], [right, top], [right, bottom], [left, bottom], [left, top]], wide, colour);
  }

  /** Draw a box as the scenes data do: filled, with an empty frame that separates it from others. */
  box(left, top, right, bottom) {
    const [x, y] = [rounded(left), rounded(top)], frame = Math.max(1, Math.floor(this.paper.width / 64));
    const [w, h] = [Math.max(1, rounded(right - left)), Math.max(1, rounded(bottom - top))], all = () => true;
    this.fill(x - frame, y - frame, x + w + frame, y + h + frame, all, this.paper.blank);
    this.fill(x, y, x + w, y + h, all, [255, 255, 255]);
  }

  /** Whether nothing is drawn. */
  get empty() {
    return this.data.every((value, i) => value === (this.paper.colours ? 255 : this.data[i % 4])); // no model gets a uniform grey as a hint
  }

  /** Reduce to two values where the model's hints have two; make drawings light on dark. */
  settle() {
    const { data, paper: { colours, binary, kind } } = this;
    if (colours) return;
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) {
      const value = Math.round(0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2]);
      sum += value;
      data.fill(binary ? (value > 127 ? 255 : 0) : value, i, i + 3);
    }
    const dark = sum > (127.5 * data.length) / 4 && ["edges", "scribble", "line"].includes(kind);
    if (dark) for (let i = 0; i < data.length; i += 4) data.fill(255 - data[i], i, i + 3);
  }
}

/** Draw the centre crop of a picture, as the models read pictures. */
export function drawMiddle(pen, image, width, height) {
  const scale = Math.max(width / image.width, height / image.height), [wide, tall] = [scale * image.width, scale * image.height];
  pen.drawImage(image, (width - wide) / 2, (height - tall) / 2, wide, tall);
}

/** The pixels of the centre crop of a picture, on a paper. */
export async function pixelsOf(url, paper) {
  const image = new Image();
  image.src = url;
  await image.decode();
  const { width, height } = paper, pen = new OffscreenCanvas(width, height).getContext("2d");
  pen.imageSmoothingQuality = "high";
  drawMiddle(pen, image, width, height);
  const pixels = new Pixels(paper);
  pixels.data.set(pen.getImageData(0, 0, width, height).data);
  pixels.settle();
  return pixels.data;
}

// Keeping -------------------------------------------------------------------------------------

const short = (x) => Math.max(0, Math.min(UNIT - 1, Math.round(x))).toString(32).padStart(2, "0");

/** Shapes as plain values, with four letters for each point. */
export const packShapes = (shapes) => shapes.map(({ points, ...rest }) => (points ? { ...rest, points: points.flat().map(short).join("") } : rest));

/** The shapes of plain values, which may come from anywhere; null if they are not a drawing. */
export function unpackShapes(values) {
  if (!Array.isArray(values) || !values.length || values.length > MOST_SHAPES) return null;
  const shapes = values.map((each) => {
    const { tool, size, points, colour, word, id } = each ?? {};
    if (tool === "clear") return { tool };
    if (tool === "picture") return /^[A-Za-z0-9_-]{8,40}$/.test(id) ? { tool, id } : null;
    if (!TOOLS.includes(tool) || !(size >= 1 && size <= UNIT) || typeof points !== "string" || !/^(?:[0-9a-v]{4}){1,4000}$/.test(points)) return null;
    const pairs = points.match(/..../g).map((four) => [parseInt(four.slice(0, 2), 32), parseInt(four.slice(2), 32)]);
    return {
      tool, size, points: pairs, ...(/^#[0-9a-f]{6}$/.test(colour) ? { colour } : {}),
      ...(typeof word === "string" && word ? { word: word.slice(0, MOST_WORD) } : {}),
    };
  });
  return shapes.every(Boolean) ? shapes : null;
}

const HEAD = 33; // bytes of a PNG file's signature and first chunk

/** A PNG file with values stored in it, in the place where limner keeps the settings of its pictures. */
export async function withValues(blob, values) {
  const file = new Uint8Array(await blob.arrayBuffer()), text = JSON.stringify(values);
  const body = new TextEncoder().encode(`iTXtlimner\0\0\0\0\0${text}`), chunk = new Uint8Array(body.length + 8), view = new DataView(chunk.buffer);
  view.setUint32(0, body.length - 4);
  chunk.set(body, 4);
  view.setUint32(body.length + 4, crc32(body));
  return new Blob([file.subarray(0, HEAD), chunk, file.subarray(HEAD)], { type: "image/png" });
}
