"use strict";

const at = (id) => document.getElementById(id);
const videos = [at("left"), at("right")];
const KEYS = { ArrowLeft: "left", ArrowRight: "right", ArrowDown: "tie" };
const RETRY = 2000; // milliseconds until a silent server is asked again
const SHORTEST = 250; // a choice sooner than this was meant for the pair before

let rater = new URLSearchParams(location.search).get("rater") || "";
let place = null; // what the server said last
let shown = -1; // the pair on the page
let since = null; // when the question could first be answered; null until then
let busy = false;
let paused = false;
const loading = new Map(); // pair -> promise of what to show of it

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function say(text) {
  at("word").textContent = text;
  at("word").hidden = !text;
}

function show(...ids) {
  for (const id of ["top", "hello", "trial", "end"]) at(id).hidden = !ids.includes(id);
}

async function ask(what, body) {
  for (;;) {
    let reply;
    try {
      reply = await fetch(what, {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ rater, ...body }),
      });
    } catch {
      say("The study does not answer. Choices made so far are kept; trying again …");
      await wait(RETRY);
      continue;
    }
    if (reply.ok) {
      say("");
      return reply.json();
    }
    if (reply.status !== 409) throw new Error((await reply.text()).trim());
    what = "place"; // another page of the same rater was faster
    body = {};
  }
}

async function blob(pair, side) {
  const path = `media/${pair}/${side}?rater=${encodeURIComponent(rater)}`;
  for (;;) {
    try {
      const reply = await fetch(path);
      if (!reply.ok) throw new Error((await reply.text()).trim());
      return URL.createObjectURL(await reply.blob());
    } catch (error) {
      if (!(error instanceof TypeError)) throw error;
      await wait(RETRY);
    }
  }
}

function load(pair) {
  if (!loading.has(pair)) {
    loading.set(pair, Promise.all([blob(pair, "left"), blob(pair, "right")]));
  }
  return loading.get(pair);
}

function forget(keep) {
  for (const [pair, promise] of loading) {
    if (keep.includes(pair)) continue;
    loading.delete(pair);
    promise.then((urls) => urls.forEach((url) => URL.revokeObjectURL(url)), () => {});
  }
}

function ready(video, url) {
  return new Promise((done, failed) => {
    video.onloadeddata = () => done(); // all of it is here already
    video.onerror = () => failed(new Error("This browser cannot play one of the videos."));
    video.src = url;
    video.load();
  });
}

function play() {
  paused = false;
  at("pause-word").textContent = "Pause";
  for (const video of videos) {
    video.play().catch(() => {
      paused = true;
      at("pause-word").textContent = "Play";
    });
  }
}

function pause() {
  if (since === null) return;
  if (paused) {
    play();
    return;
  }
  paused = true;
  at("pause-word").textContent = "Play";
  videos.forEach((video) => video.pause());
}

// The next round begins when both have ended, so that they never drift apart.
function ended() {
  if (!videos.every((video) => video.ended)) return;
  for (const video of videos) video.currentTime = 0;
  play();
}

function enable() {
  const open = since !== null && !busy;
  for (const button of at("choices").children) button.disabled = !open;
  at("pause").disabled = since === null;
  at("undo").disabled = busy || !place || place.number === 0;
}

async function present(next) {
  place = next;
  since = null;
  enable();
  at("bar").max = place.of;
  at("bar").value = place.number;
  if (place.done) {
    finish();
    return;
  }
  at("count").textContent = `${place.number + 1} of ${place.of}`;
  at("question").textContent = place.question;
  at("tie").hidden = !place.ties;
  const pair = place.number - (place.number % place.each);
  if (pair !== shown) await change(pair);
  show("top", "trial");
  since = performance.now();
  enable();
}

async function change(pair) {
  forget([pair, pair + place.each]);
  videos.forEach((video) => video.classList.remove("chosen"));
  const urls = await load(pair);
  at("prompt").textContent = place.prompt;
  at("image").hidden = !place.image;
  if (place.image) at("image").src = await blob(pair, "image");
  show("top", "trial");
  await Promise.all(videos.map((video, i) => ready(video, urls[i])));
  const ratios = videos.map((video) => video.videoWidth / video.videoHeight);
  at("pair").style.setProperty("--ratio", Math.sqrt(ratios[0] * ratios[1]));
  shown = pair;
  play();
  if (pair + place.each < place.of) load(pair + place.each).catch(() => {});
}

function finish() {
  videos.forEach((video) => video.pause());
  shown = -1;
  forget([]);
  at("sum").textContent = `All ${place.of} answers are stored.`;
  at("count").textContent = `${place.of} of ${place.of}`;
  show("top", "end");
}

async function act(what, body) {
  busy = true;
  enable();
  try {
    const next = await ask(what, body);
    busy = false;
    await present(next);
  } catch (error) {
    say(error.message);
  }
  busy = false;
  enable();
}

async function choose(choice) {
  const took = since === null ? 0 : Math.round(performance.now() - since);
  if (busy || took < SHORTEST || (choice === "tie" && !place.ties)) return;
  videos.forEach((video) => video.classList.toggle("chosen", video.id === choice));
  await act("vote", { number: place.number, choice, milliseconds: took });
  videos.forEach((video) => video.classList.remove("chosen"));
}

function undo() {
  if (!busy && place && place.number > 0) act("undo", { number: place.number });
}

async function begin() {
  try {
    const first = await ask("place", {});
    history.replaceState(null, "", `?rater=${encodeURIComponent(rater)}`);
    await present(first);
  } catch (error) {
    say(error.message);
    if (!place) show("hello");
  }
}

document.addEventListener("keydown", (event) => {
  if (!at("hello").hidden || event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
  const choice = KEYS[event.key];
  if (choice) choose(choice);
  else if (event.key === " ") pause();
  else if (event.key === "Backspace" || event.key.toLowerCase() === "u") undo();
  else return;
  event.preventDefault();
});
for (const button of at("choices").children) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
at("image").addEventListener("load", () => URL.revokeObjectURL(at("image").src));
for (const video of videos) {
  video.addEventListener("click", () => choose(video.id));
  video.addEventListener("ended", ended);
}
at("pause").addEventListener("click", pause);
at("undo").addEventListener("click", undo);
at("hello").addEventListener("submit", (event) => {
  event.preventDefault();
  rater = at("name").value.trim().replace(/\s+/g, " ");
  if (rater) begin();
});

if (rater) begin();
else {
  show("hello");
  at("name").focus();
}
