// The form that orders a video.

import { adopt, ask, file, newKey, patience, wait } from "./api.js";
import { put } from "./list.js";
import { knobsOf } from "./knobs.js";
import { clear as clearPicture, picture, startPicture, take } from "./picture.js";
import { cap, ratio, sentence, short, span, times } from "./words.js";

const SEEDS = 2 ** 32;
const FEW = 99; // videos: with more of the budget left, nobody needs to know
const FIELDS = {
  width: "size", height: "size", seconds: "num_frames",
  "input_reference[image_url]": "input_reference",
};

const at = (id) => document.getElementById(id);
const form = at("create");
let models = [];
let model = null;
let me = null;
let knobs = new Map();
let key = null; // of the order in the form, until the server has answered
let busy = false;
let stopped = false;
let askAgain = () => {};

const takesPicture = () => model !== null && model.picture !== "none";
const size = () => form.querySelector("[name=size]:checked")?.value || "";
export const current = () => model;
export const mayWrite = () => !me || !me.key || me.key.scopes.includes("videos:write");

function slot(param) {
  const field = form.querySelector(`[data-param="${CSS.escape(FIELDS[param] || param)}"]`);
  return field && !field.hidden && field;
}

function fault(param, text) {
  const field = param && slot(param);
  const line = field ? field.querySelector(".wrong") : at("wrong");
  line.textContent = text;
  line.hidden = !text;
  if (!field) return;
  const input = field.querySelector("input, textarea, select");
  if (text) input.setAttribute("aria-invalid", "true");
  else input.removeAttribute("aria-invalid");
  if (text && at("settings").contains(field)) at("settings").open = true;
}

function clearFaults() {
  for (const field of form.querySelectorAll("[data-param]")) fault(field.dataset.param, "");
  fault(null, "");
}

function showFirstFault() {
  const line = [...form.querySelectorAll(".wrong")].find((each) => !each.hidden);
  const field = line && line.closest("[data-param]");
  if (field) field.querySelector("input, textarea, select").focus();
}

function seed() {
  const text = at("seed").value.trim();
  return text === "" ? null : Number(text);
}

function faults() {
  const found = [...knobs].map(([name, knob]) => [name, knob.fault()]);
  if (model.picture === "required" && !picture()) {
    found.push(["input_reference", "Choose the picture that the video begins with."]);
  }
  if (seed() !== null && !(Number.isInteger(seed()) && seed() >= 0 && seed() < SEEDS)) {
    found.push(["seed", `A whole number from 0 to ${SEEDS - 1}, or nothing for a random one.`]);
  }
  return found.filter(([, text]) => text);
}

function order() {
  const data = new FormData();
  data.set("model", model.id);
  data.set("prompt", model.takes_prompt ? at("prompt").value.trim() : "");
  data.set("size", size());
  for (const [name, knob] of knobs) data.set(name, knob.value);
  if (seed() !== null) data.set("seed", seed());
  const given = takesPicture() && picture();
  if (given) data.set("input_reference", given, given.name || "picture");
  return data;
}

// One order however often it is sent: every attempt carries the same Idempotency-Key.
export async function place(data, idempotencyKey, onWait) {
  for (let attempt = 1; ; attempt++) {
    try {
      const headers = { "Idempotency-Key": idempotencyKey };
      return await ask("v1/videos", { method: "POST", headers, body: data });
    } catch (error) {
      const pause = patience(error, attempt);
      if (pause === null || !(await onWait(pause, error.message))) throw error;
    }
  }
}

async function countdown(seconds, message) {
  at("stop").hidden = false;
  for (let left = seconds; left > 0 && !stopped; left--) {
    at("waiting").textContent = `${sentence(message)} Trying again in ${left} s.`;
    await wait(1);
  }
  at("waiting").textContent = "";
  at("stop").hidden = true;
  return !stopped;
}

function enable() {
  at("go").disabled = busy || model === null || !mayWrite();
  at("go-word").textContent = busy ? "Sending …" : "Create video";
}

async function submit() {
  if (at("go").disabled) return;
  clearFaults();
  const wrong = faults();
  wrong.forEach(([param, text]) => fault(param, text));
  if (wrong.length) {
    showFirstFault();
    return;
  }
  [busy, stopped, key] = [true, false, key || newKey()];
  enable();
  const given = takesPicture() && picture();
  try {
    const video = await place(order(), key, countdown);
    key = null;
    if (given) adopt(video.id, "reference", given);
    put(video);
    askAgain();
    at("queue").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (error.name !== "AbortError" && !stopped) fault(error.param, sentence(error.message));
    if (error.status) key = null;
    showFirstFault();
  }
  busy = false;
  enable();
}

function sizeChip(value) {
  const chip = at("size-chip").content.firstElementChild.cloneNode(true);
  chip.querySelector("input").value = value;
  chip.querySelector("i").style.setProperty("--ratio", ratio(value));
  chip.querySelector("span").textContent = times(value);
  return chip;
}

function setSize(value) {
  const find = () => form.querySelector(`[name=size][value="${CSS.escape(value)}"]`);
  if (!find()) at("sizes").append(sizeChip(value));
  find().checked = true;
}

function adoptModel(next) {
  model = next;
  at("models").value = model.id;
  at("picture-field").hidden = !takesPicture();
  at("optional").hidden = model.picture !== "optional";
  at("prompt-field").hidden = !model.takes_prompt;
  at("prompt").maxLength = model.limits.max_prompt_letters || 1e5;
  const usual = `${model.defaults.width}x${model.defaults.height}`;
  const sizes = model.sizes.length ? model.sizes : [usual];
  at("sizes").replaceChildren(...sizes.map(sizeChip));
  setSize(sizes[0]);
  knobs = knobsOf(model);
  at("knobs").replaceChildren(...[...knobs.values()].map((knob) => knob.row));
  clearFaults();
  form.hidden = false;
}

function program() {
  const frames = knobs.get("num_frames").value;
  const steps = knobs.get("num_inference_steps").value;
  return model.programs.find((each) => each.size === size() && each.num_frames === frames
    && each.num_inference_steps === steps);
}

function pace() {
  if (model.state === "loading") return "The model is loading; your video starts when it is ready.";
  if (model.state === "failed") return model.message || "The model could not be loaded.";
  if (model.state === "offline") return "The model is offline; your video waits until it is back.";
  const found = program();
  if (!found) return "First video with these settings: compiling takes a while.";
  if (found.state === "compiling") return "Compiling for these settings …";
  return found.inference_time_s ? `${cap(span(found.inference_time_s))} a video.` : "";
}

function budget() {
  const daily = me && me.limits && me.limits.frame_pixels_per_day;
  if (!daily) return "";
  const [width, height] = size().split("x").map(Number);
  const each = width * height * knobs.get("num_frames").value;
  const left = Math.floor((daily - me.usage.frame_pixels_today) / each);
  if (!(left > 0)) return "Today’s budget does not cover another video like this.";
  return left > FEW ? "" : `Today’s budget covers ${left} more like this.`;
}

export function describe() {
  if (model === null) return;
  const [frames, fps] = ["num_frames", "fps"].map((name) => knobs.get(name).value);
  const steps = knobs.get("num_inference_steps").value;
  at("digest").textContent = `${frames} frames, ${short(frames / fps)} s, ${steps} steps`;
  at("zone").style.setProperty("--ratio", ratio(size()));
  at("pace").textContent = mayWrite() ? pace() : "This key may look at videos but not create any.";
  at("budget").textContent = budget();
  at("unseed").classList.toggle("off", at("seed").value === "");
  enable();
}

export function setAccount(next) {
  me = next;
  describe();
}

const shape = ({ id, defaults, limits, sizes }) => JSON.stringify([id, defaults, limits, sizes]);

export function setModels(next) {
  models = next.filter((each) => each.kind !== "text-to-image");
  const same = model && models.find((each) => each.id === model.id);
  const options = models.map((each) => new Option(each.id, each.id));
  if (options.length !== at("models").length) at("models").replaceChildren(...options);
  at("model-field").hidden = models.length < 2;
  if (same && shape(same) === shape(model)) model = same;
  else if (models.length) adoptModel(same || models[0]);
  if (model) at("models").value = model.id;
  describe();
}

export async function fill(video) {
  const wanted = models.find((each) => each.id === video.model);
  if (wanted && wanted !== model) adoptModel(wanted);
  at("prompt").value = video.prompt || "";
  at("seed").value = video.seed ?? "";
  setSize(video.size);
  for (const [name, knob] of knobs) if (typeof video[name] === "number") knob.set(video[name]);
  key = null;
  clearFaults();
  describe();
  at("create").scrollIntoView({ block: "start" });
  at("go").focus({ preventScroll: true });
  if (!takesPicture()) return;
  if (!video.has_input_reference) {
    clearPicture();
    return;
  }
  try {
    await take(await file(video.id, "reference"));
  } catch { /* gone with its video: the form keeps the picture it has */ }
}

export function resetForm() {
  [model, me, key, stopped] = [null, null, null, true];
  clearPicture();
  form.reset();
  form.hidden = true;
}

export function startForm(onOrder) {
  askAgain = onOrder;
  startPicture(
    () => takesPicture() && !form.hidden && !document.querySelector("dialog[open]"),
    (text) => {
      key = null;
      fault("input_reference", text);
    },
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  form.addEventListener("input", (event) => {
    key = null;
    const field = event.target.closest("[data-param]");
    if (field) fault(field.dataset.param, "");
    describe();
  });
  document.addEventListener("keydown", (event) => {
    const send = event.key === "Enter" && (event.ctrlKey || event.metaKey) && !event.repeat;
    if (send && !form.hidden && !document.querySelector("dialog[open]")) submit();
  });
  at("models").addEventListener("change", () => {
    adoptModel(models.find((each) => each.id === at("models").value));
    describe();
  });
  at("stop").addEventListener("click", () => { stopped = true; });
  at("dice").addEventListener("click", () => setSeed(Math.floor(Math.random() * SEEDS)));
  at("unseed").addEventListener("click", () => setSeed(""));
}

function setSeed(value) {
  at("seed").value = value;
  at("seed").dispatchEvent(new Event("input", { bubbles: true }));
}
