// The page: what is looked at, what is asked, and how answers arrive. Everything from the server is set as text.

import { milliseconds } from "./answer.js";
import { Refused, events, jpeg, request, setToken, tokenFromAddress } from "./api.js";
import { pickBoxes } from "./overlay.js";
import { Stage } from "./stage.js";
import { fillTasks, inputOf, readInput, writeInput } from "./tasks.js";

const $ = (id) => document.getElementById(id);
const stage = new Stage();
const state = { tasks: new Map(), file: null, running: null, paused: false, answered: 0 };

bind();
start();

async function start() {
  tokenFromAddress();
  await guarded(async () => {
    const info = await (await request("/v1/info")).json();
    const { tasks } = await (await request("/v1/tasks")).json();
    state.tasks = new Map(tasks.map((row) => [row.task, row]));
    stage.palette = info.palette;
    fillTasks($("task"), tasks);
    introduce(info);
  }, start);
}

function introduce({ model, sample, live }) {
  const backend = model.backend.replace(/Backend$/, "").toLowerCase();
  $("model").textContent = [model.source.name, model.precision, `${model.image.width} × ${model.image.height}`, backend].join(" · ");
  $("beams").append(new Option("Greedy", "1"));
  if (model.search.beams > 1) $("beams").append(new Option(`${model.search.beams} beams, the model's own`, ""));
  $("sample").hidden = !sample;
  $("sources").hidden = !live;
  $("task").value = "<CAPTION>";
  if (live) {
    $("camera-name").textContent = live.source;
    radio("camera").checked = true;
    takeQuestion(live.question);
    look();
  }
  arrange();
}

function bind() {
  $("ask").addEventListener("submit", (event) => (event.preventDefault(), ask()));
  $("task").addEventListener("change", () => (($("input").value = ""), arrange(), ask({ quietly: true })));
  $("beams").addEventListener("change", () => ask({ quietly: true }));
  $("pause").addEventListener("click", () => (state.paused ? look() : pause()));
  for (const button of document.getElementsByName("source")) button.addEventListener("change", switchSource);
  for (const id of ["choose", "another"]) $(id).addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", () => open($("file").files[0]));
  $("sample").addEventListener("click", () => guarded(async () => open(await (await request("/v1/sample")).blob())));
  document.addEventListener("paste", (event) => open(event.clipboardData?.files[0]));
  const drop = $("drop");
  drop.addEventListener("dragover", (event) => (event.preventDefault(), drop.classList.add("over")));
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    open(event.dataTransfer.files[0]);
  });
  pickBoxes($("frame"), stage.overlay, () => chosen()?.input === "box", (box) => {
    $("input").value = box.join(", ");
    ask();
  });
}

const radio = (value) => document.querySelector(`[name="source"][value="${value}"]`);
const fromCamera = () => !$("sources").hidden && radio("camera").checked;
const chosen = () => state.tasks.get($("task").value);
const isText = (token) => state.tasks.get(token)?.answer === "text";

/** Shows the controls that the task and the source need. */
function arrange() {
  const [label, placeholder, help] = inputOf(chosen()?.input) ?? [];
  $("input-field").hidden = !label;
  $("input-label").textContent = label ?? "";
  $("input").placeholder = placeholder ?? "";
  $("input-help").textContent = help ?? "";
  $("frame").classList.toggle("picking", chosen()?.input === "box");
  const camera = fromCamera();
  $("pause").hidden = !camera;
  $("another").hidden = camera || !state.file;
  $("welcome").hidden = !stage.empty || camera;
  $("drop").classList.toggle("empty", stage.empty);
  $("go").disabled = !camera && !state.file;
}

function switchSource() {
  stop();
  stage.clear();
  arrange();
  if (fromCamera()) look();
  else if (state.file) open(state.file);
}

/** Takes a picture to ask about, and asks when nothing else is needed. */
async function open(file) {
  if (!file) return;
  stop();
  radio("picture").checked = true;
  try {
    stage.forget(await stage.picture(file));
    state.file = file;
  } catch {
    state.file = null;
    stage.clear();
    stage.complain("This file is no picture that the browser can show.");
  }
  arrange();
  if (state.file) ask({ quietly: true });
}

/** Asks: about the picture at once, about the camera from the next frame on. `quietly`: only if the question is whole. */
function ask({ quietly = false } = {}) {
  const row = chosen();
  const input = readInput(row.input, $("input").value);
  if (inputOf(row.input) && input === null) {
    if (!quietly) stage.complain(`This task takes ${row.takes}.`);
    if (row.input !== "box") $("input").focus({ preventScroll: true });
    return;
  }
  const question = { task: row.task, input, search: $("beams").value ? { beams: Number($("beams").value) } : null };
  if (fromCamera()) guarded(() => setQuestion(question));
  else if (state.file) stream(question);
}

async function setQuestion(question) {
  const headers = { "Content-Type": "application/json" };
  await request("/v1/live/question", { method: "PUT", headers, body: JSON.stringify(question) });
  if (state.paused) look();
}

/** One question about the uploaded picture, shown as it is answered. */
async function stream(question) {
  stop();
  const { signal } = (state.running = new AbortController());
  const form = new FormData();
  form.append("image", state.file);
  form.append("asks", JSON.stringify([question]));
  stage.say("Sending …");
  stage.wait(true);
  await guarded(async () => {
    const response = await request("/v1/stream", { method: "POST", body: form, signal });
    let shared = {};
    for await (const [name, data] of events(response)) {
      if (signal.aborted) return;
      if (name === "queued") stage.say(data.ahead ? `Waiting, ${data.ahead} before this one …` : "Looking …");
      if (name === "image") (shared = data.timings_ms), stage.begin(isText(question.task));
      if (name === "piece") stage.write(data.text);
      if (name === "result") {
        stage.finish(data.result, { ...shared, ...data.result.timings_ms }, boxOf(question));
        stage.say(summary(data.result));
      }
      if (name === "problem") throw new Refused(data, null);
    }
  }, () => stream(question));
}

/**
 * Follows the camera until it is paused, or something else is looked at. A frame whose answer has places is shown
 * together with them, so that boxes are never drawn on another picture than their own.
 */
async function look() {
  stop();
  setPaused(false);
  arrange();
  const { signal } = (state.running = new AbortController());
  stage.say("Opening the camera …");
  await guarded(async () => {
    let frame = null;
    for await (const [name, data] of events(await request("/v1/live", { signal }))) {
      if (name === "question") takeQuestion(data);
      if (name === "trouble") stage.complain(data.detail);
      if (name === "frame") {
        frame = data;
        if (isText(data.question.task)) await showFrame(frame);
        if (signal.aborted) return;
        if (isText(data.question.task)) stage.begin(true);
      }
      if (name === "piece") stage.write(data.text);
      if (name === "answer") {
        if (!isText(frame.question.task)) await showFrame(frame);
        if (signal.aborted) return;
        takeAnswer(data, frame.question);
      }
    }
    stage.say("The camera has ended.");
  }, look);
}

async function showFrame(frame) {
  if (!frame.jpeg) return;
  await stage.picture(jpeg(frame.jpeg), frame.image);
  stage.overlay.show([], frame.image);
  arrange();
}

function takeAnswer(data, question) {
  const [result] = Object.values(data.results);
  if (result) stage.finish(result, { ...data.timings_ms, ...result.timings_ms }, boxOf(question));
  else stage.complain(Object.values(data.errors ?? {})[0] ?? "The frame could not be answered.");
  const now = performance.now();
  const rate = state.answered ? `${(1000 / (now - state.answered)).toFixed(1)} answers a second` : "";
  state.answered = now;
  const parts = [`frame ${data.frame}`, `answered ${milliseconds(data.age_ms)} after it came`, rate, `${data.dropped} passed over`];
  stage.say(parts.filter(Boolean).join(" · "));
}

/** Shows what is asked about the camera, whoever chose it; what is being typed here is left alone. */
function takeQuestion({ task, input, search }) {
  $("task").value = task;
  if (document.activeElement !== $("input")) $("input").value = writeInput(input);
  $("beams").value = search?.beams === 1 ? "1" : "";
  arrange();
}

const boxOf = (question) => (state.tasks.get(question.task)?.input === "box" ? question.input : null);

function summary(result) {
  const score = "text" in result && result.scores[0] != null ? `score ${result.scores[0].toFixed(2)}` : "";
  const cut = result.finish === "length" ? "cut short at the token limit" : "";
  return [`${result.tokens} tokens`, score, cut].filter(Boolean).join(" · ");
}

function pause() {
  stop();
  stage.settle();
  setPaused(true);
  stage.say("Paused. The camera is closed while nobody looks.");
}

function setPaused(paused) {
  state.paused = paused;
  state.answered = 0;
  $("pause").textContent = paused ? "Go on" : "Pause";
}

function stop() {
  state.running?.abort();
  state.running = null;
}

/** Runs something that asks the server; asks for the token where one is needed, says what else is wrong. */
async function guarded(work, again = null) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    stage.settle();
    stage.say("");
    if (!(error instanceof Refused)) stage.complain("The server does not answer. Is it still running?");
    else if (error.problem.status === 401) openDoor(again);
    else stage.complain(`${error.problem.title}: ${error.message}.`);
  }
}

function openDoor(again) {
  const door = $("door");
  door.returnValue = "";
  door.onclose = () => {
    if (door.returnValue !== "open") return stage.complain("Nothing is shown without the token. Reload the page to try again.");
    setToken($("token").value);
    $("token").value = "";
    return again?.();
  };
  if (!door.open) door.showModal();
}
