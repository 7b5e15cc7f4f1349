// The user's videos as the server last told them, the newest first.

import { ApiError, ask, forget } from "./api.js";

const PAGE = 50;
const known = new Map(); // id -> Video
const dropped = new Set(); // deleted here; an answer on its way may still name them
let order = []; // ids, without a gap from the newest to the oldest known
let older = false; // whether the server has more beyond the oldest known
let changed = () => {};

export const isActive = (video) => video.status === "queued" || video.status === "in_progress";
export const all = () => order.map((id) => known.get(id));
export const get = (id) => known.get(id);
export const hasOlder = () => older;
export const onChange = (listener) => { changed = listener; };

function page(after) {
  const from = after ? `&after=${encodeURIComponent(after)}` : "";
  return ask(`v1/videos?limit=${PAGE}&order=desc${from}`);
}

function learn(videos) {
  const fresh = videos.filter((video) => !dropped.has(video.id));
  for (const video of fresh) known.set(video.id, video);
  return fresh.map((video) => video.id);
}

export async function refresh() {
  const before = new Set(order);
  const seen = [];
  let answer;
  do {
    answer = await page(answer && answer.last_id);
    seen.push(...answer.data);
  } while (answer.has_more && answer.data.length && isActive(answer.data.at(-1)));
  const oldest = answer.has_more ? seen.at(-1).created_at : -Infinity;
  const ids = new Set(learn(seen));
  const gone = (id) => before.has(id) && known.get(id).created_at > oldest;
  const rest = order.filter((id) => !ids.has(id));
  const added = rest.filter((id) => !before.has(id)); // created since the question was asked
  const kept = rest.filter((id) => before.has(id) && !gone(id));
  rest.filter(gone).forEach(lose);
  if (!kept.length) older = answer.has_more;
  order = [...added, ...ids, ...kept];
  await Promise.all(kept.filter((id) => isActive(known.get(id))).map(again));
  changed();
}

async function again(id) {
  try {
    known.set(id, await ask(`v1/videos/${encodeURIComponent(id)}`));
  } catch (error) {
    if (!(error instanceof ApiError && error.status === 404)) throw error;
    order = order.filter((each) => each !== id);
    lose(id);
  }
}

export async function more() {
  const answer = await page(order.at(-1));
  order = [...new Set([...order, ...learn(answer.data)])];
  older = answer.has_more;
  changed();
}

export function put(video) {
  if (!known.has(video.id)) order.unshift(video.id);
  known.set(video.id, video);
  changed();
}

function lose(id) {
  known.delete(id);
  forget(id);
}

export function drop(id) {
  dropped.add(id);
  order = order.filter((each) => each !== id);
  lose(id);
  changed();
}

export function clear() {
  known.clear();
  dropped.clear();
  order = [];
  older = false;
  changed();
}
