// The web page: requests a stream of previews and shows each of them. It keeps all previews, so the
// slider can return to any number of codes that was shown.

const $ = (id) => document.getElementById(id);
const SLOW_MS = 110;
const LOAD_EVERY_MS = 1000;
const MANY_CODES = 64; // models with more codes get a limited rate of previews
const PREVIEWS_PER_S = 15;

let models = [];
let drawing = null; // the request whose samples are shown, see newDrawing
let opened = false; // whether the page has seen the server ready

const model = () => models[$("model").selectedIndex];

// ---------------------------------------------------------------- requests to the server

async function ask(path, body, options = {}) {
  const response = await fetch(path, {
    method: body ? "POST" : "GET",
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body && JSON.stringify(body),
    ...options,
  });
  if (!response.ok) {
    const failure = await response.json().catch(() => null);
    throw new Error(failure ? failure.error.message : `the server responded with ${response.status}`);
  }
  return response;
}

async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const field = (name) => part.match(new RegExp(`^${name}: (.*)$`, "m"))?.[1];
      if (field("event")) yield { name: field("event"), data: JSON.parse(field("data")) };
    }
  }
}

// ---------------------------------------------------------------- sampling

function newDrawing() {
  const abort = new AbortController();
  return { id: null, frames: [], shown: 0, played: 0, wanted: 0, end: null, frozen: false, abort };
}

async function run(path, body, mine) {
  try {
    const many = model().code_length > MANY_CODES ? { previews_per_s: PREVIEWS_PER_S } : {};
    const signal = mine.abort.signal;
    const format = model().formats.find((name) => name === "png" || name === "wav");
    const response = await ask(path, { ...body, ...many, format, stream: true }, { signal });
    for await (const event of events(response)) {
      if (event.name === "error") throw new Error(event.data.error.message);
      mine.id = event.data.id;
      mine.frames[event.data.codes_drawn] = event.data;
      if (event.name === "done") mine.end = event.data;
    }
    if (!mine.end) throw new Error("the stream was cut off; try again");
  } catch (error) {
    mine.failed = error.message;
  }
  mine.running = false;
}

// Shows previews as they arrive, or one every SLOW_MS in slow motion.
async function play(mine) {
  while (mine === drawing && !mine.frozen) {
    const next = mine.frames.findIndex((frame, codes) => frame && codes > mine.played);
    if (next > 0) {
      mine.played = next;
      show(mine, next);
      showProgress(mine);
      $("codes").value = Math.max($("codes").value, next);
      await sleep($("slow").checked ? SLOW_MS : 0);
    } else if (mine.running) {
      await sleep(10);
    } else {
      break;
    }
  }
  if (mine === drawing) settle(mine);
}

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function begin(path, body, mine) {
  drawing = mine;
  mine.running = true;
  mine.wanted = body.codes;
  mine.end = mine.failed = null;
  mine.finished = run(path, body, mine);
  watch(mine);
}

function watch(mine) {
  mine.frozen = false;
  $("stop").disabled = false;
  $("refine").disabled = $("vary").disabled = true;
  say("Drawing:");
  showProgress(mine);
  play(mine);
}

function draw(event) {
  event.preventDefault();
  stopServer(drawing);
  const body = { model: model().name, n: Number($("count").value), codes: Number($("codes").value) };
  if ($("label").value !== "") body.label = Number($("label").value);
  const given = [...$("conditions").querySelectorAll("[name]")].filter((field) => field.value !== "");
  if (given.length) {
    body.conditions = Object.fromEntries(given.map((field) => [field.name, field.read(field.value)]));
  }
  if ($("seed").value !== "") body.seed = Number($("seed").value);
  if ($("deadline").value !== "") body.deadline_ms = Number($("deadline").value);
  begin("/v1/samples", body, newDrawing());
}

// Samples with an id can be refined later, so they are stopped. A request without an id is aborted.
function stopServer(mine) {
  if (!mine?.running) return;
  if (mine.id) fetch(`/v1/samples/${mine.id}`, { method: "DELETE" });
  else mine.abort.abort();
}

function stop() {
  stopServer(drawing);
  drawing.frozen = true;
}

// Continues to show the previews that have arrived, or requests more codes: up to the slider, or an
// eighth of all. The server refines only ended samples, and ends a stopped request a little later.
async function refine() {
  const mine = drawing;
  $("refine").disabled = true;
  await mine.finished;
  if (mine !== drawing) return;
  if (mine.frames.some((frame, codes) => frame && codes > mine.played)) return watch(mine);
  const length = model().code_length;
  const step = Math.max(1, Math.round(length / 8));
  const wanted = Number($("codes").value) > mine.played ? Number($("codes").value) : mine.played + step;
  const codes = Math.min(length, wanted);
  begin(`/v1/samples/${mine.id}/refine`, { codes }, mine);
}

// Requests variations of one of the samples, with as many of its codes kept as the page says.
async function vary() {
  const mine = drawing;
  $("vary").disabled = true;
  await mine.finished;
  if (mine !== drawing) return;
  const keep = Number($("keep").value);
  const body = {
    vary: { id: mine.id, index: Number($("chosen").value) - 1, keep },
    n: Number($("count").value),
    codes: Math.max(keep, Number($("codes").value)),
  };
  if ($("deadline").value !== "") body.deadline_ms = Number($("deadline").value);
  begin("/v1/samples", body, newDrawing());
}

// ---------------------------------------------------------------- showing

// Apart from the status, so that screen readers do not announce every code.
function showProgress(mine) {
  $("progress").textContent = `code ${mine.played} of ${mine.wanted}`;
}

function say(text, wrong = false) {
  $("status").textContent = text;
  $("progress").textContent = "";
  $("status").classList.toggle("wrong", wrong);
}

const short = (value) => (value < 10 ? value.toFixed(1) : value.toFixed(0));
const duration = (ms) => (ms < 1000 ? `${short(ms)} ms` : `${short(ms / 1000)} s`);

const WHY = {
  complete: "all requested codes",
  deadline: "the deadline",
  load: "other requests needed the slots",
  cancelled: "stopped",
  drain: "the server is shutting down",
};

function settle(mine) {
  $("stop").disabled = true;
  $("vary").disabled = !mine.id;
  $("refine").disabled = !mine.id || mine.played >= model().code_length;
  if (mine.frozen && mine.played !== mine.end?.codes_drawn) {
    return say(`Stopped at ${mine.played} of ${model().code_length} codes.`);
  }
  if (mine.failed) return say(mine.failed, true);
  const { timing, stop_reason: reason, seed, codes_drawn: codes, code_length: length } = mine.end;
  say(
    `${codes} of ${length} codes in ${duration(timing.total_ms)}: ${WHY[reason]}. ` +
      `Waiting ${duration(timing.queue_ms)}, drawing ${duration(timing.sampling_ms)}, ` +
      `decoding ${duration(timing.decode_ms)}; seed ${seed}.`,
  );
}

function show(mine, codes) {
  const frame = mine.frames[codes];
  const grid = $("samples");
  const audio = frame.format === "wav";
  mine.shown = codes;
  grid.classList.toggle("audio", audio);
  while (grid.children.length > frame.n) grid.lastChild.remove();
  while (grid.children.length < frame.n) grid.append(document.createElement("figure"));
  frame.samples.forEach((sample, i) => {
    const name = mine.end?.labels ? `${mine.end.labels[i]}, ` : "";
    (audio ? showAudio : showImage)(grid.children[i], sample, frame, `${name}sample ${i + 1}`);
  });
  mark();
}

function showImage(figure, sample, frame, name) {
  let image = figure.querySelector("img");
  if (!image) figure.replaceChildren((image = document.createElement("img")));
  image.src = `data:image/${frame.format};base64,${sample}`;
  image.alt = `${name}, ${frame.codes_drawn} codes`;
}

function showAudio(figure, sample, frame, name) {
  let canvas = figure.querySelector("canvas");
  if (!canvas) {
    canvas = document.createElement("canvas");
    canvas.setAttribute("role", "img");
    const audio = document.createElement("audio");
    audio.controls = true;
    figure.replaceChildren(canvas, audio);
  }
  const audio = figure.querySelector("audio");
  canvas.setAttribute("aria-label", `waveform of ${name}, ${frame.codes_drawn} codes`);
  audio.setAttribute("aria-label", name);
  audio.src = `data:audio/wav;base64,${sample}`;
  const bytes = Uint8Array.from(atob(sample), (letter) => letter.charCodeAt(0));
  const wave = new Int16Array(bytes.buffer, 44, (bytes.length - 44) >> 1); // after the header
  const width = (canvas.width = 2 * canvas.clientWidth || 480);
  const height = (canvas.height = 2 * canvas.clientHeight || 128);
  const pen = canvas.getContext("2d");
  pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
  for (let x = 0; x < width; x += 1) {
    const part = wave.subarray(
      Math.floor((x * wave.length) / width),
      Math.floor(((x + 1) * wave.length) / width) + 1,
    );
    const peak = part.reduce((most, value) => Math.max(most, Math.abs(value)), 0) / 32768;
    pen.fillRect(x, (height * (1 - peak)) / 2, 1, Math.max(1, height * peak));
  }
}

// ---------------------------------------------------------------- budget and curve

const X = { left: 8, right: 0, top: 22, bottom: 122, height: 150 }; // right follows the window

function place(points, value, most) {
  const length = model().code_length;
  const x = (codes) => X.left + ((X.right - X.left) * (codes - 1)) / Math.max(1, length - 1);
  const y = (share) => X.bottom - (X.bottom - X.top) * share;
  return points
    .filter((point) => value(point) !== null)
    .map((point) => [x(point.codes), y(value(point) / most)]);
}

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text) element.textContent = text;
  return element;
}

function drawCurve() {
  const { curve, code_length: length } = model();
  X.right = $("codes").clientWidth - X.left;
  $("curve").setAttribute("viewBox", `0 0 ${X.right + X.left} ${X.height}`);
  const slowest = Math.max(...curve.map((point) => point.server_ms ?? 0), 1e-9);
  const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x} ${y}`).join("");
  const { left, right, top, bottom } = X;
  const parts = [
    svg("path", { class: "frame", d: `M${left} ${top}V${bottom}H${right}V${top}`, fill: "none" }),
    svg("path", { class: "quality", d: path(place(curve, (p) => p.quality, 1)) }),
    svg("path", { class: "time", d: path(place(curve, (p) => p.server_ms, slowest)) }),
    svg("text", { x: left, y: top - 8, class: "of-quality" }, "quality"),
    svg("text", { x: left, y: bottom + 18 }, "1"),
    svg("text", { x: right, y: bottom + 18, "text-anchor": "end" }, `${length} codes`),
    svg("line", { class: "requested", id: "requested", y1: top, y2: bottom }),
    svg("circle", { class: "shown", id: "shown", r: 6 }),
  ];
  if (slowest > 1e-6) {
    const label = `time on this server, up to ${duration(slowest)}`;
    parts.push(svg("text", { x: right, y: top - 8, "text-anchor": "end", class: "of-time" }, label));
  }
  $("curve").replaceChildren(...parts);
  $("curve").style.display = curve.length ? "" : "none";
}

const measured = (codes) => model().curve.filter((point) => point.codes <= codes).at(-1);

function mark() {
  const codes = Number($("codes").value);
  const point = measured(codes);
  $("codes-text").textContent = `${codes} of ${model().code_length}`;
  $("codes").setAttribute("aria-valuetext", `${codes} of ${model().code_length} codes`);
  if (point) {
    const percent = point.quality === null ? null : `${Math.round(100 * point.quality)} % of full quality`;
    const time = point.server_ms === null ? null : `${duration(point.server_ms)} for one sample on this server`;
    $("curve-text").textContent =
      `At ${point.codes} codes: ${[percent, time].filter(Boolean).join(", ")}.`;
    const [[requested]] = place([{ codes, quality: 0 }], (p) => p.quality, 1);
    $("requested")?.setAttribute("x1", requested);
    $("requested")?.setAttribute("x2", requested);
    const shown = drawing?.shown ? measured(drawing.shown) : null;
    $("shown").style.display = shown ? "" : "none";
    if (shown) {
      const spot = { codes: drawing.shown, quality: shown.quality ?? 0 };
      const [[x, y]] = place([spot], (p) => p.quality, 1);
      $("shown").setAttribute("cx", x);
      $("shown").setAttribute("cy", y);
    }
  } else {
    $("curve-text").textContent = "The quality of this model was not measured.";
  }
}

// Shows the latest preview with at most as many codes as the slider says.
function scrub() {
  const mine = drawing;
  if (mine && $("stop").disabled) {
    const codes = Object.keys(mine.frames).map(Number).filter((k) => k <= $("codes").value);
    if (codes.length) show(mine, Math.max(...codes));
  }
  mark();
}

// A control for a condition: a list of classes, or a field for a text or numbers.
function conditionField([name, { kind, names, words, width, max_tokens: tokens }]) {
  const label = Object.assign(document.createElement("label"), { textContent: `${name} ` });
  if (kind === "class") {
    const field = Object.assign(document.createElement("select"), { name, read: Number });
    field.replaceChildren(new Option("any", ""), ...names.map((one, i) => new Option(one, i)));
    label.append(field);
    return label;
  }
  const numbers = (text) => text.split(/[\s,]+/).filter(Boolean).map(Number);
  const field = Object.assign(document.createElement("input"), {
    name,
    read: kind === "text" ? String : numbers,
    placeholder:
      kind === "text"
        ? words.slice(0, 3).join(" ")
        : kind === "vector" ? `${width} numbers` : `up to ${tokens} codes`,
  });
  label.append(field);
  return label;
}

function chooseModel() {
  const { labels, conditions, code_length: length, slots } = model();
  stopServer(drawing);
  drawing = null;
  $("samples").replaceChildren();
  $("stop").disabled = $("refine").disabled = $("vary").disabled = true;
  $("chosen").value = 1;
  $("keep").max = length;
  $("keep").value = Math.round(length / 2);
  $("label-field").hidden = !labels;
  $("label").replaceChildren(
    new Option("any", ""),
    ...(labels ?? []).map((name, i) => new Option(name, i)),
  );
  $("conditions").replaceChildren(...Object.entries(conditions).map(conditionField));
  $("count").max = slots;
  $("count").value = Math.min($("count").value, Math.max(1, Math.floor(slots / 2)));
  $("codes").max = length;
  $("codes").value = length;
  say("Choose the options, then press Draw.");
  drawCurve();
  mark();
}

// ---------------------------------------------------------------- load

async function watchLoad() {
  for (;;) {
    try {
      const { ready, models: loads } = await (await ask("/v1/load")).json();
      const mine = loads.find((load) => load.model === model().name);
      $("codes-share").value = mine.codes_drawn_share ?? 0;
      $("codes-share-text").textContent =
        mine.codes_drawn_share === null ? "no recent requests" : `${Math.round(100 * mine.codes_drawn_share)} %`;
      $("load-text").textContent =
        `${mine.rows} of ${mine.slots} rows in use, ${mine.waiting} waiting, ` +
        `${mine.requests_per_s.toFixed(1)} requests a second${ready ? "" : "; the server is not ready"}.`;
      if (ready && !opened) await open();
    } catch (error) {
      $("load-text").textContent = `The server does not respond: ${error.message}`;
    }
    await sleep(LOAD_EVERY_MS);
  }
}

// ---------------------------------------------------------------- start

async function loadModels() {
  ({ models } = await (await ask("/v1/models")).json());
}

// A server that is ready has measured its costs. Fetches them and draws the first samples.
async function open() {
  await loadModels();
  opened = true;
  drawCurve();
  mark();
  if (!drawing) $("form").requestSubmit();
}

async function start() {
  try {
    await loadModels();
  } catch (error) {
    say(`The server does not respond: ${error.message}`, true);
    return;
  }
  $("model").replaceChildren(...models.map(({ name }) => new Option(name)));
  $("model").addEventListener("change", chooseModel);
  $("form").addEventListener("submit", draw);
  $("stop").addEventListener("click", stop);
  $("refine").addEventListener("click", refine);
  $("vary").addEventListener("click", vary);
  $("samples").addEventListener("click", ({ target }) => {
    const index = [...$("samples").children].indexOf(target.closest("figure"));
    if (index >= 0) $("chosen").value = index + 1;
  });
  $("codes").addEventListener("input", scrub);
  window.addEventListener("resize", () => (drawCurve(), mark()));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !$("stop").disabled) stop();
  });
  chooseModel();
  watchLoad();
}

start();
