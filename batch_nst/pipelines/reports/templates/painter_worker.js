/* The worker: ONNX Runtime Web with the model, in one thread beside the page's. */

import * as ort from "./onnxruntime/ort.wasm.min.js";

const beside = (name) => new URL(name, import.meta.url).href;

ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1; // more need headers that few static hosts send
ort.env.wasm.proxy = false;
ort.env.wasm.wasmPaths = {
  mjs: beside("onnxruntime/ort-wasm-simd-threaded.js"),
  wasm: beside("onnxruntime/ort-wasm-simd-threaded.wasm"),
};

async function load() {
  const name = new URL(import.meta.url).searchParams.get("model");
  const answer = await fetch(beside(name));
  if (!answer.ok) throw new Error(`${name} could not be fetched: the server answers ${answer.status}`);
  const model = new Uint8Array(await answer.arrayBuffer());
  return ort.InferenceSession.create(model, { executionProviders: ["wasm"], logSeverityLevel: 3 });
}

/** RGBA bytes in and out; the model takes and gives planes of floats in 0..1. */
async function paint(session, pixels, width, height) {
  const plane = width * height;
  const planes = new Float32Array(3 * plane);
  for (let index = 0; index < plane; index++) {
    for (let colour = 0; colour < 3; colour++) planes[colour * plane + index] = pixels[4 * index + colour] / 255;
  }
  const { stylized } = await session.run({ image: new ort.Tensor("float32", planes, [1, 3, height, width]) });
  const values = stylized.data;
  const painted = new Uint8ClampedArray(4 * plane).fill(255);
  for (let index = 0; index < plane; index++) {
    // The array rounds to the nearest, ties to even.
    for (let colour = 0; colour < 3; colour++) painted[4 * index + colour] = Math.fround(255 * values[colour * plane + index]);
  }
  return painted;
}

/** A first small picture: what comes after it is painted at full speed, and can be estimated. */
async function try_out(session) {
  const side = 128;
  let took;
  for (const size of [32, side]) {
    const began = performance.now();
    await paint(session, new Uint8ClampedArray(4 * size * size), size, size);
    took = performance.now() - began;
  }
  return took / 1000 / (side * side);
}

const told = (error) => postMessage({ error: error instanceof Error ? error.message : String(error) });
const session = load();

onmessage = async ({ data: { pixels, width, height } }) => {
  try {
    const painted = await paint(await session, pixels, width, height);
    postMessage({ pixels: painted }, [painted.buffer]);
  } catch (error) {
    told(error);
  }
};

session.then(try_out).then((secondsPerPixel) => postMessage({ secondsPerPixel }), told);
