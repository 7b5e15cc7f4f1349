// The server's HTTP API: the key, requests and their errors, and stored files as blob URLs.

const STORED = "vdm_jax.key";
const MOST_VIDEOS = 24; // kept in memory at a time
const PATIENCE = 120; // seconds; who is told to wait longer is told so instead
const AGAIN = new Set([409, 429, 502, 503, 504]);

const blobs = new Map(); // "id/variant" -> promise of a blob URL, the oldest first
let key = stored();
let session = new AbortController(); // aborted when its user signs out
let refused = () => {};

export class ApiError extends Error {
  constructor(status, error, after) {
    super(error.message || `The server answered ${status}.`);
    this.status = status;
    this.param = error.param || null;
    this.after = after; // seconds, or null
  }
}

export class Unreachable extends Error {
  constructor() {
    super("The server cannot be reached.");
  }
}

function stored() {
  try {
    return localStorage.getItem(STORED) || sessionStorage.getItem(STORED) || "";
  } catch {
    return ""; // a frame without storage
  }
}

export const hasKey = () => key !== "";
export const onRefused = (listener) => { refused = listener; };

export function signIn(secret, storage) {
  signOut();
  key = secret;
  try {
    window[storage].setItem(STORED, secret);
  } catch { /* a frame without storage: the key lives as long as the page */ }
}

export function signOut() {
  session.abort();
  session = new AbortController();
  key = "";
  try {
    localStorage.removeItem(STORED);
    sessionStorage.removeItem(STORED);
  } catch { /* nothing was stored */ }
  for (const name of [...blobs.keys()]) release(name);
}

async function request(path, options = {}) {
  const mine = session;
  const headers = { ...options.headers };
  if (key) headers.Authorization = `Bearer ${key}`;
  let reply;
  try {
    reply = await fetch(path, { ...options, headers, signal: mine.signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Unreachable();
  }
  if (reply.ok) return reply;
  const body = await reply.json().catch(() => ({}));
  const after = parseFloat(reply.headers.get("Retry-After"));
  const error = new ApiError(reply.status, body.error || {}, after >= 0 ? after : null);
  if (error.status === 401 && mine === session) refused(error);
  throw error;
}

export async function ask(path, options) {
  try {
    return await (await request(path, options)).json();
  } catch (error) {
    if (error instanceof TypeError || error instanceof SyntaxError) throw new Unreachable();
    throw error;
  }
}

export function send(path, body) {
  const headers = { "Content-Type": "application/json", "Idempotency-Key": newKey() };
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) });
}

export const remove = (id) => ask(`v1/videos/${encodeURIComponent(id)}`, { method: "DELETE" });

export function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16)); // not a secure context
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Seconds until the same request may succeed; null where it will not.
export function patience(error, attempt) {
  const guess = Math.min(2 ** attempt, 30);
  if (error instanceof Unreachable) return guess;
  if (!(error instanceof ApiError) || !AGAIN.has(error.status)) return null;
  if (error.status === 409 && error.after === null) return null;
  const wait = error.after ?? guess;
  return wait > PATIENCE ? null : Math.max(1, Math.ceil(wait));
}

export const wait = (seconds) => new Promise((done) => setTimeout(done, seconds * 1000));

export async function file(id, variant) {
  const { signal } = session;
  const path = `v1/videos/${encodeURIComponent(id)}/content?variant=${variant}`;
  for (let attempt = 1; ; attempt++) {
    try {
      return await (await request(path)).blob();
    } catch (error) {
      const pause = attempt < 5 ? patience(error, attempt) : null;
      if (pause === null || signal.aborted) throw error;
      await wait(pause);
    }
  }
}

async function load(id, variant) {
  const { signal } = session;
  const blob = await file(id, variant);
  if (signal.aborted) throw new DOMException("signed out", "AbortError");
  return URL.createObjectURL(blob);
}

export function media(id, variant) {
  const name = `${id}/${variant}`;
  const url = blobs.get(name) || load(id, variant);
  url.catch(() => blobs.delete(name));
  blobs.delete(name);
  blobs.set(name, url);
  const videos = [...blobs.keys()].filter((each) => each.endsWith("/video"));
  videos.slice(0, -MOST_VIDEOS).forEach(release);
  return url;
}

export function adopt(id, variant, blob) {
  blobs.set(`${id}/${variant}`, Promise.resolve(URL.createObjectURL(blob)));
}

export function forget(id) {
  for (const name of [...blobs.keys()]) if (name.startsWith(`${id}/`)) release(name);
}

function release(name) {
  blobs.get(name).then((url) => URL.revokeObjectURL(url), () => {});
  blobs.delete(name);
}
