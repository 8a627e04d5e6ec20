// Paints with a limner model in the browser: with WebGPU where that is available and works, else
// with WebAssembly. ONNX Runtime's build for WebGPU has no float64.

import { Noise } from "./noise.js";
import { Words } from "./words.js";

const byId = (id) => document.getElementById(id);

async function json(name) {
  const got = await fetch(name);
  if (!got.ok) throw new Error(`the server has no ${name} (${got.status})`);
  return got.json();
}

class Painter {
  static async load(say) {
    const description = await json("model.json");
    const adapter = !description.float64 && navigator.gpu?.requestAdapter().catch(() => null);
    if (await adapter) {
      try {
        return await Painter.on(true, description, say);
      } catch (error) {
        console.warn(`WebGPU cannot: ${error.message ?? error}`);
      }
    }
    return Painter.on(false, description, say);
  }

  static async on(gpu, description, say) {
    say("loading the runtime");
    const ort = await import(gpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
    ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
    ort.env.wasm.numThreads = self.crossOriginIsolated ? navigator.hardwareConcurrency : 1;
    const painter = new Painter();
    Object.assign(painter, { description, ort, gpu });
    painter.words = description.text ? new Words(await json("words.json")) : null;
    for (const name of description.graphs) {
      say(`loading ${name}`);
      painter[name] = await ort.InferenceSession.create(`${name}.onnx`, {
        executionProviders: gpu ? ["webgpu", "wasm"] : ["wasm"],
      });
    }
    return painter;
  }

  /** Return the condition as tensors with one row, and notes on the prompt. */
  condition({ prompt, label }) {
    const { ort, description } = this;
    const parts = {};
    let notes = [];
    if (description.text) {
      const read = this.words.read(prompt);
      notes = read.notes;
      parts.text = new ort.Tensor("int64", read.row, [1, read.row.length]);
    }
    if (description.labels.length) {
      parts.label = new ort.Tensor("int64", BigInt64Array.of(BigInt(label)), [1]);
    }
    return { parts, notes };
  }

  /** Yield the picture as it forms: Float32Array "c h w" in [-1, 1]. */
  async *frames(seed, parts) {
    const noise = new Noise(seed);
    if (!this.description.looks) {
      yield await this.whole(noise, parts);
      return;
    }
    const { ort, description } = this;
    const size = description.shape.reduce((a, b) => a * b, 1);
    const first = noise.normal(size).map((value) => value * description.deviation);
    const vectors = [first];
    let drawn = 0;
    for (const look of description.looks) {
      for (; drawn < look.drawn; drawn++) vectors.push(noise.normal(size));
      const x = new Float32Array(size);
      look.sums.forEach((share, j) => {
        if (share) vectors[j].forEach((value, i) => (x[i] += share * value));
      });
      const given = new ort.Tensor("float32", x, [1, ...description.shape]);
      if (look.t === null) {
        yield await this.finished(given);
        return;
      }
      const t = new ort.Tensor("float64", Float64Array.of(look.t), []);
      const { expected } = await this.view.run(this.known(this.view, { x: given, t, ...parts }));
      vectors.push(Float32Array.from(expected.data));
      yield await this.finished(expected);
    }
  }

  async whole(noise, parts) {
    const given = { ...parts };
    for (const [name, { law, shape, type }] of Object.entries(this.description.noise)) {
      const n = shape.reduce((a, b) => a * b, 1);
      const drawn = law === "normal" ? noise.normal(n) : noise.uniform(n, type);
      const values = (type === "float64" ? Float64Array : Float32Array).from(drawn);
      given[name] = new this.ort.Tensor(type, values, [1, ...shape]);
    }
    return (await this.painter.run(this.known(this.painter, given))).picture.data;
  }

  async finished(x) {
    return (await this.finish.run({ x })).picture.data;
  }

  /** Return only the inputs that a graph has. */
  known(session, given) {
    return Object.fromEntries(session.inputNames.map((name) => [name, given[name]]));
  }
}

function show(canvas, [channels, height, width], values) {
  canvas.width = width;
  canvas.height = height;
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    for (let k = 0; k < 3; k++) {
      const value = values[(channels === 3 ? k : 0) * width * height + i];
      image.data[4 * i + k] = Math.round((value + 1) * 127.5);
    }
    image.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

async function start() {
  const say = (text) => (byId("state").textContent = text);
  const painter = await Painter.load(say);
  const { description } = painter;
  document.title = byId("title").textContent = description.title;
  byId("text").hidden = !description.text;
  byId("labels").hidden = !description.labels.length;
  description.labels.forEach((name, i) => byId("label").add(new Option(name, i)));
  [, byId("picture").height, byId("picture").width] = description.picture;
  const where = painter.gpu ? "WebGPU" : "WebAssembly";
  say(`ready (${where})`);
  byId("paint").disabled = false;
  byId("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    byId("paint").disabled = true;
    try {
      const seed = Number(byId("seed").value);
      const asked = { prompt: byId("prompt").value, label: byId("label").value };
      const { parts, notes } = painter.condition(asked);
      const began = performance.now();
      let step = 0;
      for await (const frame of painter.frames(seed, parts)) {
        show(byId("picture"), description.picture, frame);
        say(`painting, step ${++step}`);
        await new Promise(requestAnimationFrame);
      }
      const seconds = ((performance.now() - began) / 1000).toFixed(1);
      say([`done in ${seconds} s (${where})`, ...notes].join("; "));
      byId("keep").hidden = false;
      byId("keep").href = byId("picture").toDataURL();
      if (byId("next").checked) byId("seed").value = seed + 1;
    } catch (error) {
      say(`painting failed: ${error.message ?? error}`);
    } finally {
      byId("paint").disabled = false;
      if (document.activeElement === document.body) byId("paint").focus();
    }
  });
}

start().catch((error) => {
  byId("state").textContent = `this page cannot paint: ${error.message ?? error}`;
});
