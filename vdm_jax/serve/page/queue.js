// Cards of the videos that wait, are drawn now, or failed.

import { file, media, newKey, remove } from "./api.js";
import { mayWrite, place as order } from "./form.js";
import { settings } from "./knobs.js";
import { all, drop, get, isActive, put } from "./list.js";
import { place, sentence, span, title } from "./words.js";

const at = (id) => document.getElementById(id);
const cards = new Map(); // id -> card
const told = new Map(); // id -> the status last told to screen readers
let say = () => {};
let aloud = () => {};
let askAgain = () => {};

function state(video) {
  const left = typeof video.eta_seconds === "number" ? `, ${span(video.eta_seconds)} left` : "";
  if (video.status === "queued") return place(video.queue_position) + left;
  if (!video.step) return `Starting${left}`;
  return `Step ${video.step} of ${video.steps}${left}`;
}

async function picture(card, video) {
  const image = card.querySelector("img");
  try {
    image.src = await media(video.id, "reference");
    await image.decode();
    image.hidden = false;
  } catch { /* the card does without */ }
}

function act(button, action) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      await action();
    } catch (error) {
      if (error.name !== "AbortError") say(sentence(error.message));
    }
    button.disabled = false;
  });
}

async function cancel(id) {
  try {
    await remove(id);
  } catch (error) {
    if (error.status !== 404) throw error;
  }
  drop(id);
}

async function retry(id) {
  const video = get(id);
  const data = new FormData();
  for (const [name, value] of Object.entries(settings(video))) data.set(name, value);
  data.set("prompt", video.prompt || "");
  if (video.has_input_reference) {
    data.set("input_reference", await file(id, "reference"), "picture");
  }
  put(await order(data, newKey(), async () => false));
  askAgain();
  await cancel(id);
}

function make(video) {
  const card = at("job").content.firstElementChild.cloneNode(true);
  const { id } = video;
  card.querySelector(".title").textContent = title(video);
  card.querySelector(".title").title = video.prompt || "";
  card.querySelector("progress").ariaLabel = `Progress of ${title(video)}`;
  act(card.querySelector(".cancel"), () => cancel(id));
  act(card.querySelector(".dismiss"), () => cancel(id));
  act(card.querySelector(".retry"), () => retry(id));
  if (video.has_input_reference) picture(card, video);
  return card;
}

function update(card, video) {
  const failed = video.status === "failed";
  card.dataset.status = video.status;
  const bar = card.querySelector("progress");
  bar.hidden = failed;
  bar.value = video.progress;
  card.querySelector(".state").textContent = failed
    ? sentence(video.error?.message || "The video failed") : state(video);
  card.querySelector(".cancel").hidden = failed || !mayWrite();
  card.querySelector(".failed").hidden = !failed || !mayWrite();
}

function announce(video) {
  const before = told.get(video.id);
  told.set(video.id, video.status);
  if (before === video.status || !(before || isActive(video))) return;
  const words = { queued: "queued", in_progress: "started", completed: "ready", failed: "failed" };
  aloud(`${title(video).slice(0, 60)}: ${words[video.status]}`);
}

function rank(video) {
  if (video.status === "in_progress") return 0;
  return video.status === "queued" ? video.queue_position || 1e6 : 1e9;
}

export function renderQueue() {
  const videos = all();
  videos.forEach(announce);
  const shown = videos.filter((video) => video.status !== "completed");
  shown.sort((one, other) => rank(one) - rank(other));
  const ids = new Set(shown.map((video) => video.id));
  for (const [id, card] of cards) {
    if (ids.has(id)) continue;
    card.remove();
    cards.delete(id);
  }
  shown.forEach((video, i) => {
    if (!cards.has(video.id)) cards.set(video.id, make(video));
    const card = cards.get(video.id);
    update(card, video);
    const there = at("jobs").children[i];
    if (there !== card) at("jobs").insertBefore(card, there || null);
  });
  const active = shown.filter(isActive).length;
  at("queue").hidden = shown.length === 0;
  at("queue-count").textContent = active || "";
  document.title = active ? `(${active}) Image to video` : "Image to video";
}

export function clearQueue() {
  told.clear();
}

export function startQueue(onWord, onNews, onOrder) {
  [say, aloud, askAgain] = [onWord, onNews, onOrder];
}
