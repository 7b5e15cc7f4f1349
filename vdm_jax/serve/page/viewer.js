// The dialog that shows one video large, with what it was made of and what can be done with it.

import { media, remove, send } from "./api.js";
import { fill, mayWrite } from "./form.js";
import { completed, focusTile } from "./gallery.js";
import { named } from "./knobs.js";
import { drop, get, put } from "./list.js";
import { expiry, filename, length, moment, ratio, sentence, times } from "./words.js";

const at = (id) => document.getElementById(id);
const dialog = at("viewer");
const player = at("player");
const still = matchMedia("(prefers-reduced-motion: reduce)");
let shown = null; // id
let takesPrompt = () => false;
let askAgain = () => {};

function wrong(text) {
  at("view-wrong").textContent = text;
  at("view-wrong").hidden = !text;
}

function stop() {
  player.pause();
  player.removeAttribute("src");
  player.load();
}

function facts(video) {
  const pairs = [
    ["Made", moment(video.completed_at || video.created_at)], ["Size", times(video.size)],
    ["Length", length(video)], ["Model", video.model],
    ...named(video).filter(([name]) => !name.startsWith("Frames")),
  ];
  return pairs.flatMap(([name, value]) => {
    const [term, text] = [document.createElement("dt"), document.createElement("dd")];
    [term.textContent, text.textContent] = [name, value];
    return [term, text];
  });
}

function describe(video) {
  const prompted = takesPrompt(video);
  at("view-prompt").textContent = video.prompt || "";
  at("view-prompt").hidden = !video.prompt;
  at("view-facts").replaceChildren(...facts(video));
  at("view-expiry").textContent = expiry(video.expires_at);
  at("stage").style.setProperty("--ratio", ratio(video.size));
  at("remix").hidden = !mayWrite();
  at("remix-field").hidden = !prompted;
  at("remix-prompt").value = video.prompt || "";
  at("remix-go").textContent = prompted ? "Remix" : "Another take";
  at("reuse").hidden = at("delete").hidden = !mayWrite();
  at("delete-ask").hidden = true;
  const ids = completed().map((each) => each.id);
  at("before").disabled = ids.indexOf(video.id) <= 0;
  at("after").disabled = ids.indexOf(video.id) === ids.length - 1;
  wrong("");
}

async function show(id) {
  shown = id;
  stop();
  describe(get(id));
  player.classList.remove("here");
  at("download").removeAttribute("href");
  try {
    const url = await media(id, "video");
    if (shown !== id) return;
    player.src = url;
    at("download").href = url;
    at("download").download = filename(get(id));
    player.classList.add("here");
    if (!still.matches) await player.play().catch(() => {});
  } catch (error) {
    if (shown === id && error.name !== "AbortError") wrong(sentence(error.message));
  }
}

export function view(id) {
  if (!dialog.open) {
    dialog.showModal();
    at("close").focus({ focusVisible: false });
  }
  show(id);
}

export function closeViewer() {
  if (dialog.open) dialog.close();
}

export function renderViewer() {
  if (shown !== null && (!get(shown) || get(shown).status !== "completed")) closeViewer();
}

function step(by) {
  const ids = completed().map((video) => video.id);
  const next = ids[ids.indexOf(shown) + by];
  if (next) show(next);
}

async function remix() {
  const video = get(shown);
  const prompt = takesPrompt(video) ? at("remix-prompt").value.trim() : video.prompt || "";
  at("remix-go").disabled = true;
  wrong("");
  try {
    put(await send(`v1/videos/${encodeURIComponent(video.id)}/remix`, { prompt }));
    askAgain();
    closeViewer();
    at("queue").scrollIntoView({ block: "nearest" });
  } catch (error) {
    if (error.name !== "AbortError") wrong(sentence(error.message));
  }
  at("remix-go").disabled = false;
}

async function erase() {
  const id = shown;
  at("delete-yes").disabled = true;
  try {
    await remove(id);
    closeViewer();
    drop(id);
    focusTile(null);
  } catch (error) {
    if (error.name !== "AbortError") wrong(sentence(error.message));
  }
  at("delete-yes").disabled = false;
}

function askDelete(open) {
  at("delete-ask").hidden = !open;
  at("delete").hidden = open;
  (open ? at("delete-no") : at("delete")).focus();
}

function keys(event) {
  if (event.target.closest("textarea, input") || event.target === player) return;
  if (event.key === "ArrowLeft") step(-1);
  else if (event.key === "ArrowRight") step(1);
  else return;
  event.preventDefault();
}

export function startViewer(isPrompted, onOrder) {
  [takesPrompt, askAgain] = [isPrompted, onOrder];
  dialog.addEventListener("keydown", keys);
  dialog.addEventListener("click", (event) => event.target === dialog && closeViewer());
  dialog.addEventListener("close", () => {
    const id = shown;
    shown = null;
    stop();
    if (get(id)) focusTile(id);
  });
  at("close").addEventListener("click", closeViewer);
  at("before").addEventListener("click", () => step(-1));
  at("after").addEventListener("click", () => step(1));
  at("delete").addEventListener("click", () => askDelete(true));
  at("delete-no").addEventListener("click", () => askDelete(false));
  at("delete-yes").addEventListener("click", erase);
  at("reuse").addEventListener("click", () => {
    const video = get(shown);
    shown = null; // the focus goes to the form, not back to the tile
    closeViewer();
    fill(video);
  });
  at("remix").addEventListener("submit", (event) => {
    event.preventDefault();
    remix();
  });
}
