// Finished videos as tiles in rows of one height; a tile plays while it is pointed at.

import { media } from "./api.js";
import { all, hasOlder, more } from "./list.js";
import { ratio, sentence, short, title } from "./words.js";

const PAUSE = 120; // milliseconds a pointer rests on a tile before its video is fetched

const at = (id) => document.getElementById(id);
const still = matchMedia("(prefers-reduced-motion: reduce)");
const tiles = new Map(); // id -> tile
let view = () => {};
let say = () => {};
let timer = 0;

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    thumbnail(target);
  }
}, { rootMargin: "300px" });

async function thumbnail(tile) {
  const image = tile.querySelector("img");
  try {
    image.src = await media(tile.dataset.id, "thumbnail");
    await image.decode();
    image.classList.add("here");
  } catch { /* the tile keeps its plain ground */ }
}

async function play(tile) {
  const { id } = tile.dataset;
  try {
    const url = await media(id, "video");
    if (!tile.matches(":hover, :focus-visible") || tile.querySelector("video")) return;
    const video = document.createElement("video");
    Object.assign(video, { muted: true, loop: true, playsInline: true, src: url, tabIndex: -1 });
    video.ariaHidden = "true";
    video.addEventListener("playing", () => video.classList.add("here"));
    tile.querySelector("img").after(video);
    await video.play();
  } catch { /* the pointer left, or the video is gone */ }
}

function rest(tile) {
  clearTimeout(timer);
  timer = setTimeout(() => play(tile), PAUSE);
}

function leave(tile) {
  clearTimeout(timer);
  const video = tile.querySelector("video");
  if (!video || tile.matches(":hover, :focus-visible")) return;
  video.pause();
  video.removeAttribute("src");
  video.remove();
}

const shown = (video) => Math.min(Math.max(ratio(video.size), 0.4), 3);

// Videos of one shape stand in columns; others fill their rows.
function arrange(videos) {
  const ratios = new Set(videos.map(shown));
  at("tiles").classList.toggle("even", ratios.size === 1);
  if (ratios.size === 1) at("tiles").style.setProperty("--ratio", [...ratios][0]);
}

function make(video) {
  const tile = at("tile").content.firstElementChild.cloneNode(true);
  tile.dataset.id = video.id;
  tile.style.setProperty("--ratio", shown(video));
  tile.ariaLabel = `Open video: ${title(video)}`;
  tile.querySelector(".caption span").textContent = video.prompt || "";
  tile.querySelector(".length").textContent = `${short(video.num_frames / video.fps)} s`;
  tile.addEventListener("click", () => view(video.id));
  if (!still.matches) {
    tile.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && rest(tile));
    tile.addEventListener("focus", () => tile.matches(":focus-visible") && rest(tile));
  }
  tile.addEventListener("pointerleave", () => leave(tile));
  tile.addEventListener("blur", () => leave(tile));
  tile.addEventListener("focus", () => roam(tile));
  seen.observe(tile);
  return tile;
}

// One tile is in the order of Tab; arrow keys go from it to the others.
function roam(tile) {
  for (const each of tiles.values()) each.tabIndex = each === tile ? 0 : -1;
}

function above(tile, direction) {
  const middle = (each) => each.offsetLeft + each.offsetWidth / 2;
  const beyond = (each) => direction * (each.offsetTop - tile.offsetTop) > 4;
  const rows = [...tiles.values()].filter(beyond);
  const next = Math.min(...rows.map((each) => direction * each.offsetTop));
  const row = rows.filter((each) => Math.abs(direction * each.offsetTop - next) < 4);
  const far = (each) => Math.abs(middle(each) - middle(tile));
  return row.sort((one, other) => far(one) - far(other))[0];
}

function move(event) {
  const tile = event.target.closest(".tile");
  if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
  const next = {
    ArrowRight: () => tile.nextElementSibling,
    ArrowLeft: () => tile.previousElementSibling,
    ArrowDown: () => above(tile, 1),
    ArrowUp: () => above(tile, -1),
    Home: () => at("tiles").firstElementChild,
    End: () => at("tiles").lastElementChild,
  }[event.key];
  if (!next) return;
  event.preventDefault();
  const target = next();
  if (target) target.focus();
}

export const completed = () => all().filter((video) => video.status === "completed");

export function focusTile(id) {
  const tile = tiles.get(id) || at("tiles").firstElementChild;
  if (tile) tile.focus({ focusVisible: false });
}

export function renderGallery() {
  const videos = completed();
  const ids = new Set(videos.map((video) => video.id));
  for (const [id, tile] of tiles) {
    if (ids.has(id)) continue;
    seen.unobserve(tile);
    tile.remove();
    tiles.delete(id);
  }
  videos.forEach((video, i) => {
    if (!tiles.has(video.id)) tiles.set(video.id, make(video));
    const tile = tiles.get(video.id);
    const there = at("tiles").children[i];
    if (there !== tile) at("tiles").insertBefore(tile, there || null);
  });
  arrange(videos);
  const entry = [...tiles.values()].some((tile) => tile.tabIndex === 0);
  if (!entry && tiles.size) at("tiles").firstElementChild.tabIndex = 0;
  at("gallery-count").textContent = videos.length ? `${videos.length}${hasOlder() ? "+" : ""}` : "";
  at("empty").hidden = all().length > 0 || hasOlder();
  at("more").hidden = !hasOlder();
}

export function startGallery(onView, onWord) {
  [view, say] = [onView, onWord];
  at("tiles").addEventListener("keydown", move);
  at("more").addEventListener("click", async () => {
    at("more").disabled = true;
    try {
      await more();
    } catch (error) {
      if (error.name !== "AbortError") say(sentence(error.message));
    }
    at("more").disabled = false;
  });
}
