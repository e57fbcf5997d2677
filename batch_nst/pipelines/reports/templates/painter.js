"use strict";

/* The page: reads a photo, has it painted by a worker, and shows, blends and saves the picture. */

const LEAST = 16; // pixels a side: the network reflects the borders
const by = (id) => document.getElementById(id);
const [photoCanvas, paintedCanvas, frame] = ["photo", "painted", "frame"].map(by);

let painter = null; // the worker, and a promise of its seconds a pixel
let source = null; // the file that was chosen last
let shown = null; // name, photo and painted picture, when there is one
let job = 0; // counts the photos: whatever an older one still says is dropped
let clock = 0;

function say(words, wrong = false) {
  by("status").textContent = words;
  by("status").classList.toggle("wrong", wrong);
}

function fail(words) {
  job += 1;
  rest();
  if (!shown) by("result").hidden = true;
  say(words, true);
}

/** Seconds for people: two digits, and no more. */
const seconds = (number) => `${number < 10 ? number.toPrecision(2) : Math.round(number)} seconds`;

/** The graph that paints: the one that is chosen, where there are several. */
const model = () => document.querySelector("input[name=model]:checked")?.value ?? "model.onnx";

/** A worker that has the model. A worker of a blob keeps the policy of this page; one with an address has none. */
function start() {
  const address = new URL(`worker.js?${new URLSearchParams({ model: model() })}`, document.baseURI);
  const script = `import ${JSON.stringify(address.href)};`;
  const worker = new Worker(URL.createObjectURL(new Blob([script], { type: "text/javascript" })), { type: "module" });
  const started = { worker, isReady: false };
  started.ready = new Promise((resolve, reject) => {
    worker.onerror = () => reject(new Error("the painter does not start; are all files of this page there, and is this browser new enough"));
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.secondsPerPixel));
  });
  started.ready.then(() => (started.isReady = true), () => {});
  return started;
}

function rest() {
  clearInterval(clock);
  by("working").hidden = true;
  by("result").classList.remove("painting");
}

function stop() {
  painter?.worker.terminate();
  painter = null;
}

/** The painted pixels. The model may still be loading. */
async function painted(photo) {
  painter ??= start();
  const { worker } = painter;
  say("Loading the model ...");
  const secondsPerPixel = await painter.ready;
  const { width, height, data } = photo;
  const expected = secondsPerPixel * width * height;
  say(`Painting ${width} x ${height} pixels: about ${seconds(expected)}.`);
  const began = performance.now();
  clock = setInterval(() => {
    const gone = (performance.now() - began) / 1000;
    by("elapsed").textContent = `${Math.round(gone)} s`;
    by("progress").value = Math.min(gone / expected, 0.98);
  }, 200);
  const pixels = await new Promise((resolve, reject) => {
    worker.onerror = () => reject(new Error("the painter has ended"));
    worker.onmessage = ({ data }) => (data.error ? reject(new Error(data.error)) : resolve(data.pixels));
    worker.postMessage({ pixels: data, width, height });
  });
  return { pixels: new ImageData(pixels, width, height), took: (performance.now() - began) / 1000 };
}

/** The pixels of a file: upright, sRGB, over white, and no more than so many. */
async function read(file, most) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image",
    colorSpaceConversion: "default",
    premultiplyAlpha: "none",
  });
  const scale = Math.min(1, Math.sqrt(most / (bitmap.width * bitmap.height)));
  const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.floor(side * scale)));
  const canvas = document.createElement("canvas");
  Object.assign(canvas, { width, height });
  const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  const given = [bitmap.width, bitmap.height];
  bitmap.close();
  return { given, photo: context.getImageData(0, 0, width, height) };
}

async function paint(file) {
  const mine = ++job;
  const busy = !by("working").hidden;
  source = file;
  rest();
  if (busy) stop(); // what is being painted is not wanted any more
  painter ??= start();
  const name = file.name || "photo.png";
  say(`Reading ${name} ...`);
  let found;
  try {
    found = await read(file, Number(by("most").value));
  } catch {
    if (mine === job) fail(`${name} is no picture that this browser can read, or too large for it. JPEG, PNG and WebP always work.`);
    return;
  }
  if (mine !== job) return;
  const { given, photo } = found;
  if (Math.min(photo.width, photo.height) < LEAST) {
    const scaled = photo.width < given[0] ? `, scaled down ${photo.width} x ${photo.height}` : "";
    fail(`${name} has ${given.join(" x ")} pixels${scaled}; both sides need ${LEAST} or more.`);
    return;
  }
  put(photoCanvas, photo);
  shown = null;
  const figure = frame.parentElement.style;
  figure.setProperty("--aspect", photo.width / photo.height);
  figure.setProperty("--width", `${photo.width}px`);
  by("result").hidden = false;
  by("result").classList.add("painting");
  by("progress").removeAttribute("value");
  by("elapsed").textContent = "";
  by("working").hidden = false;
  try {
    const { pixels, took } = await painted(photo);
    if (mine !== job) return;
    shown = { name, photo, painted: pixels, took };
    blend();
    rest();
    by("result").scrollIntoView({ block: "nearest" });
    const scaled = photo.width < given[0] ? ` The photo has ${given.join(" x ")} pixels, and was scaled down.` : "";
    say(`Painted ${photo.width} x ${photo.height} pixels in ${seconds(took)}, on this device.${scaled}`);
  } catch (error) {
    if (mine !== job) return;
    const memory = painter?.isReady ? " If this device lacks memory, fewer megapixels may do." : "";
    stop();
    fail(`${name} could not be painted: ${error.message}.${memory}`);
  }
}

function put(canvas, pixels) {
  canvas.width = pixels.width;
  canvas.height = pixels.height;
  canvas.getContext("2d", { alpha: false }).putImageData(pixels, 0, 0);
}

/** Shows photo and painted picture mixed by the strength, as `batch-nst apply --strength` does. */
function blend() {
  if (!shown) return;
  const strength = Math.fround(Number(by("strength").value) / 100);
  const { photo, painted } = shown;
  const mixed = new ImageData(painted.width, painted.height);
  const [from, to, into] = [photo.data, painted.data, mixed.data];
  for (let index = 0; index < into.length; index++) {
    // The array rounds to the nearest, ties to even.
    into[index] = Math.fround(from[index] + Math.fround(strength * (to[index] - from[index])));
  }
  put(paintedCanvas, mixed);
}

function divide(percent) {
  frame.style.setProperty("--at", `${percent}%`);
  by("divider").value = percent;
}

function listen() {
  const file = by("file");
  file.addEventListener("change", () => {
    if (file.files.length) paint(file.files[0]);
    file.value = ""; // the same one can be chosen again
  });
  by("sample").addEventListener("click", async () => {
    try {
      const answer = await fetch("sample.jpg");
      if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
      paint(new File([await answer.blob()], "cat.jpg"));
    } catch (error) {
      fail(`sample.jpg could not be fetched: ${error.message}.`);
    }
  });
  for (const choice of document.querySelectorAll("input[name=model]")) {
    const tell = () => (by("style").textContent = choice.labels[0].textContent.trim());
    if (choice.checked) tell(); // a browser may remember what was chosen before it loaded the page again
    choice.addEventListener("change", () => {
      tell();
      stop();
      if (source) paint(source);
    });
  }
  by("most").addEventListener("change", () => source && paint(source));
  by("stop").addEventListener("click", () => {
    stop();
    fail("Stopped.");
  });

  const page = document.documentElement;
  page.addEventListener("dragover", (event) => {
    event.preventDefault();
    page.classList.add("dragging");
  });
  page.addEventListener("dragleave", () => page.classList.remove("dragging"));
  page.addEventListener("drop", (event) => {
    event.preventDefault();
    page.classList.remove("dragging");
    if (event.dataTransfer.files.length) paint(event.dataTransfer.files[0]);
    else fail("What was dropped is no file. Save the picture first, and choose it here.");
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length) paint(event.clipboardData.files[0]);
  });

  let waits = false;
  by("strength").addEventListener("input", () => {
    by("percent").textContent = `${by("strength").value} %`;
    if (!waits) requestAnimationFrame(() => ((waits = false), blend()));
    waits = true;
  });
  by("divider").addEventListener("input", () => divide(by("divider").value));
  const drag = (event) => {
    if (!event.buttons || !shown) return;
    const { left, width } = frame.getBoundingClientRect();
    divide(Math.min(100, Math.max(0, (100 * (event.clientX - left)) / width)));
  };
  frame.addEventListener("pointerdown", (event) => {
    frame.setPointerCapture(event.pointerId);
    by("divider").focus({ preventScroll: true });
    drag(event);
  });
  frame.addEventListener("pointermove", drag);
  frame.addEventListener("mousedown", (event) => event.preventDefault()); // it would take the focus away

  by("save").addEventListener("click", () => {
    blend(); // a change that has not been drawn yet
    paintedCanvas.toBlob((blob) => {
      if (!blob) return say("The picture could not be saved: this device lacks memory.", true);
      const link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = `${shown.name.replace(/\.\w+$/, "")}-painted.png`;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    }, "image/png");
  });
}

if (location.protocol !== "file:") { // there the status says what to do
  say("");
  listen();
}
