// Numbers as people say them.

const plural = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;

export const cap = (text) => text.charAt(0).toUpperCase() + text.slice(1);
export const sentence = (text) => cap(text) + (/[.!?]$/.test(text) ? "" : ".");
export const times = (size) => size.replace("x", " × ");
export const short = (number, digits = 1) => String(Number(number.toFixed(digits)));

export function ratio(size) {
  const [width, height] = size.split("x").map(Number);
  return width > 0 && height > 0 ? width / height : 1;
}

export function span(seconds) {
  if (seconds < 5) return "a few seconds";
  if (seconds < 55) return `about ${Math.ceil(seconds / 5) * 5} seconds`;
  if (seconds < 90) return "about a minute";
  if (seconds < 55 * 60) return `about ${Math.round(seconds / 60)} minutes`;
  if (seconds < 90 * 60) return "about an hour";
  if (seconds < 36 * 3600) return `about ${Math.round(seconds / 3600)} hours`;
  return `about ${Math.round(seconds / 86400)} days`;
}

export function expiry(at) {
  if (!at) return "";
  const left = at - Date.now() / 1000;
  return left <= 0 ? "Expires now" : `Kept for ${span(left)} more`;
}

export function moment(at) {
  return new Date(at * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
}

export function place(position) {
  if (!position) return "Waiting in the queue";
  if (position === 1) return "Next in the queue";
  return `Number ${position} in the queue`;
}

export function length(video) {
  const seconds = short(video.num_frames / video.fps);
  return `${plural(video.num_frames, "frame")}, ${video.fps} fps, ${seconds} s`;
}

export function title(video) {
  return video.prompt || `${times(video.size)}, ${plural(video.num_frames, "frame")}`;
}

export function filename(video) {
  const words = (video.prompt || video.model).toLowerCase().normalize("NFKD");
  const slug = words.replace(/[^a-z0-9]+/g, "-").slice(0, 40).replace(/^-+|-+$/g, "");
  return `${slug || "video"}-${video.id.slice(-6)}.mp4`;
}
