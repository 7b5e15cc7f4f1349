// The settings of a model, each a slider with a number beside it.

import { short } from "./words.js";

const KNOBS = [
  { name: "num_frames", label: "Frames", help: "How many pictures the video has.",
    low: 1, high: 64, limit: "max_num_frames", multiple: "multiple_of_frames",
    step: 1, whole: true },
  { name: "fps", label: "Frames per second", help: "How fast they are played.",
    low: 1, high: 30, step: 1 },
  { name: "num_inference_steps", label: "Steps",
    help: "More steps take longer and bring out finer detail.",
    low: 1, high: 100, limit: "max_num_inference_steps", step: 1, whole: true },
  { name: "guidance_scale", label: "Guidance",
    help: "How closely the video keeps to what you gave.", low: 1, high: 10, step: 0.1 },
  { name: "min_guidance_scale", label: "Guidance, first frame",
    help: "How closely the first frame keeps to the picture.", low: 1, high: 10, step: 0.1 },
  { name: "max_guidance_scale", label: "Guidance, last frame",
    help: "The frames between go from the first value to this one.",
    low: 1, high: 10, step: 0.1 },
  { name: "motion_bucket_id", label: "Motion", help: "Low is calm, high is lively.",
    low: 0, high: 255, step: 1 },
  { name: "noise_aug_strength", label: "Freedom",
    help: "How far the video may leave the picture (noise augmentation strength).",
    low: 0, high: 1, step: 0.001, power: 3 },
];

class Knob {
  constructor(spec, model) {
    const top = spec.limit && model.limits[spec.limit];
    this.spec = { ...spec, high: top || spec.high, strict: Boolean(top) };
    this.usual = model.defaults[spec.name];
    this.spec.high = Math.max(this.spec.high, this.usual);
    const multiple = spec.multiple && model.limits[spec.multiple];
    if (multiple > 1) Object.assign(this.spec, { low: multiple, step: multiple });
    this.row = document.getElementById("knob").content.firstElementChild.cloneNode(true);
    this.row.dataset.param = spec.name;
    const find = (name) => this.row.querySelector(name);
    this.number = find("[type=number]");
    this.range = find("[type=range]");
    this.back = find("button");
    this.number.id = `knob-${spec.name}`;
    find("label").htmlFor = this.number.id;
    find("label").textContent = this.range.ariaLabel = spec.label;
    this.back.ariaLabel = `${spec.label}: back to ${this.usual}`;
    this.back.title = `Back to ${this.usual}`;
    find(".help").textContent = spec.help;
    this.scale();
    this.number.addEventListener("input", () => this.follow());
    this.range.addEventListener("input", () => this.set(this.fromRange()));
    this.back.addEventListener("click", () => {
      this.set(this.usual);
      this.number.dispatchEvent(new Event("input", { bubbles: true }));
      this.number.focus();
    });
    this.set(this.usual);
  }

  scale() {
    const { low, high, step, power = 1 } = this.spec;
    Object.assign(this.number, { min: low, max: high, step });
    Object.assign(this.range, { min: low ** (1 / power), max: high ** (1 / power) });
    this.range.step = power === 1 ? step : 0.005;
  }

  fromRange() {
    const value = Number(this.range.value) ** (this.spec.power || 1);
    return Number(short(value, this.spec.step < 0.01 ? 3 : 1));
  }

  set(value) {
    this.number.value = value;
    this.follow();
  }

  follow() {
    this.range.value = Math.max(this.value || 0, 0) ** (1 / (this.spec.power || 1));
    const { min, max, value } = this.range;
    this.range.style.setProperty("--filled", (value - min) / (max - min || 1));
    this.back.classList.toggle("off", this.value === this.usual);
  }

  get value() {
    return this.number.value === "" ? this.usual : Number(this.number.value);
  }

  fault() {
    const { low, high, whole, strict } = this.spec;
    if (this.number.validity.badInput) return "This is not a number.";
    if (whole && !Number.isInteger(this.value)) return "A whole number, please.";
    if (this.value < low) return `At least ${low}, please.`;
    return strict && this.value > high ? `At most ${high}, please.` : "";
  }
}

export function knobsOf(model) {
  const has = (spec) => typeof model.defaults[spec.name] === "number";
  return new Map(KNOBS.filter(has).map((spec) => [spec.name, new Knob(spec, model)]));
}

export function named(video) {
  const pairs = KNOBS.filter((spec) => typeof video[spec.name] === "number")
    .map((spec) => [spec.label, short(video[spec.name], 3)]);
  return [...pairs, ["Seed", String(video.seed)]];
}

export function settings(video) {
  const names = ["model", "size", "seed", ...KNOBS.map((spec) => spec.name)];
  const given = names.filter((name) => video[name] !== null && video[name] !== undefined);
  return Object.fromEntries(given.map((name) => [name, video[name]]));
}
