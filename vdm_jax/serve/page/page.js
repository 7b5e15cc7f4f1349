// The page: who is signed in, and what the server says, asked again and again.

import { ask, hasKey, onRefused, patience, signIn, signOut, wait } from "./api.js";
import { current, resetForm, setAccount, setModels, startForm } from "./form.js";
import { renderGallery, startGallery } from "./gallery.js";
import * as list from "./list.js";
import { clearQueue, renderQueue, startQueue } from "./queue.js";
import { closeViewer, renderViewer, startViewer, view } from "./viewer.js";
import { sentence, times } from "./words.js";

const EVERY = { active: 1000, idle: 8000, hidden: 20000 }; // milliseconds between two questions
const SLOWEST = 30000;
const RARELY = 5; // rounds between two questions about models, where nothing is loading

const at = (id) => document.getElementById(id);
let me = null;
let models = [];
let timer = 0;
let round = 0; // since the models were asked for
let failures = 0;
let generation = 0; // of signing in: an answer to an earlier one is let go

function say(text) {
  at("word").textContent = text;
  at("word").hidden = !text;
  clearTimeout(say.timer);
  if (text) say.timer = setTimeout(() => say(""), 6000);
}

const tell = (text) => { at("aloud").textContent = text; };

function screen(name) {
  at("hello").hidden = name !== "hello";
  at("studio").hidden = name !== "studio";
  at("account").hidden = at("status").hidden = name !== "studio";
}

function statusOf(model) {
  if (failures > 1) return ["lost", "Connection lost, trying again"];
  if (!model) return ["loading", "Starting"];
  const compiling = model.programs.find((program) => program.state === "compiling");
  if (model.state === "ready" && compiling) {
    return ["loading", `Warming up ${times(compiling.size)}, ${compiling.num_frames} frames`];
  }
  const words = {
    loading: "Loading the model", ready: "Ready", failed: model.message || "The model failed",
    offline: "Offline",
  };
  return [model.state, words[model.state] || model.state];
}

function renderStatus() {
  const model = current();
  const [state, text] = statusOf(model);
  at("status").dataset.state = state;
  if (at("status-word").textContent !== text) at("status-word").textContent = text;
  at("status").title = model ? `${model.id}: ${text}` : text;
  at("none").hidden = models.length > 0;
}

function render() {
  renderQueue();
  renderGallery();
  renderViewer();
}

function pause() {
  if (failures) return Math.min(1000 * 2 ** (failures - 1), SLOWEST);
  if (document.hidden) return EVERY.hidden;
  const busy = list.all().some(list.isActive) || models.length === 0
    || models.some((model) => model.state === "loading");
  const rate = me.limits && me.limits.requests_per_minute;
  return Math.max(busy ? EVERY.active : EVERY.idle, rate ? 2 * 60000 / rate : 0);
}

async function askModels() {
  const restless = models.some((model) => model.state !== "ready"
    || model.programs.some((program) => program.state === "compiling"));
  if (models.length && round > 0 && !restless) return;
  const [answer, account] = await Promise.all([ask("v1/models"), ask("v1/me")]);
  [models, me] = [answer.data, account];
  setModels(models);
  setAccount(me);
}

async function tick() {
  clearTimeout(timer);
  const mine = generation;
  let after = 0;
  try {
    await askModels();
    await list.refresh();
    failures = 0;
    round = (round + 1) % RARELY;
  } catch (error) {
    if (mine !== generation || error.name === "AbortError") return;
    if (!error.status && error.name !== "Error") throw error;
    if (error.status !== 429) failures += 1;
    after = error.after || 0;
  }
  if (mine !== generation) return;
  renderStatus();
  clearTimeout(timer);
  timer = setTimeout(tick, Math.max(pause(), after * 1000));
}

function soon() {
  clearTimeout(timer);
  round = 0;
  timer = setTimeout(tick, 300);
}

function leave(word) {
  generation += 1;
  clearTimeout(timer);
  signOut();
  closeViewer();
  list.clear();
  clearQueue();
  resetForm();
  [me, models, round, failures] = [null, [], 0, 0];
  document.title = "Image to video";
  at("key").value = "";
  at("key-wrong").textContent = word;
  at("key-wrong").hidden = !word;
  say("");
  tell("");
  screen("hello");
  at("key").focus();
}

function open(account) {
  me = account;
  setAccount(me);
  const named = me.authentication === "key";
  at("who").textContent = (named && me.key && me.key.name) || "";
  at("sign-out").hidden = !named;
  screen("studio");
  tick();
}

async function enter() {
  const mine = generation;
  for (let tries = 1; ; tries++) {
    try {
      const locked = !hasKey() && (await ask("health")).authentication === "key";
      if (mine === generation && locked) leave("");
      if (mine !== generation || locked) return;
      const account = await ask("v1/me");
      if (mine === generation) open(account);
      return;
    } catch (error) {
      if (mine !== generation || error.name === "AbortError") return;
      const pause = patience(error, tries);
      if (pause === null) {
        leave(sentence(error.message));
        return;
      }
      say(`${sentence(error.message)} Trying again …`);
      await wait(pause);
    }
  }
}

onRefused((error) => {
  const word = me ? "This key is no longer valid. Sign in again." : "This key is not valid.";
  leave(hasKey() ? word : "");
});

at("hello").addEventListener("submit", (event) => {
  event.preventDefault();
  const secret = at("key").value.trim();
  if (!/^[\x21-\x7e]+$/.test(secret)) {
    at("key-wrong").textContent = "This does not look like a key.";
    at("key-wrong").hidden = false;
    return;
  }
  generation += 1;
  signIn(secret, at("stay").checked ? "localStorage" : "sessionStorage");
  at("key-wrong").hidden = true;
  enter();
});
at("sign-out").addEventListener("click", () => leave(""));
document.addEventListener("visibilitychange", () => me && !document.hidden && soon());
window.addEventListener("online", () => me && soon());

list.onChange(render);
startForm(soon);
startQueue(say, tell, soon);
startGallery(view, say);
startViewer((video) => {
  const model = models.find((each) => each.id === video.model);
  return Boolean(model && model.takes_prompt);
}, soon);
enter();
