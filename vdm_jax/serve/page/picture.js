// The picture a video begins with: dropped anywhere, pasted or chosen.

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MOST = 20 * 2 ** 20; // bytes

const at = (id) => document.getElementById(id);
let chosen = null; // File or Blob
let url = "";
let wanted = () => false;
let tell = () => {};

export const picture = () => chosen;

export function clear() {
  URL.revokeObjectURL(url);
  [chosen, url] = [null, ""];
  at("file").value = "";
  at("picture").removeAttribute("src");
  at("picture").hidden = at("unpick").hidden = true;
  at("zone-words").hidden = false;
}

function fault(file) {
  if (!KINDS.includes(file.type)) return "This is not a PNG, JPEG or WebP picture.";
  if (file.size > MOST) {
    return `This picture has ${Math.ceil(file.size / 2 ** 20)} MB; at most 20 MB can be used.`;
  }
  return "";
}

export async function take(file) {
  const wrong = fault(file);
  if (wrong) {
    tell(wrong);
    return;
  }
  const next = URL.createObjectURL(file);
  const trial = new Image();
  trial.src = next;
  try {
    await trial.decode();
  } catch {
    URL.revokeObjectURL(next);
    tell("This picture cannot be read: the file may be damaged.");
    return;
  }
  clear();
  [chosen, url] = [file, next];
  at("picture").src = url;
  at("picture").hidden = at("unpick").hidden = false;
  at("zone-words").hidden = true;
  tell("");
}

function first(files) {
  const list = [...files];
  return list.find((file) => file.type.startsWith("image/")) || list[0];
}

const carriesFiles = (event) => event.dataTransfer && event.dataTransfer.types.includes("Files");

// A file that nobody took would be opened in place of the page, so all are stopped here.
function over(event) {
  if (!carriesFiles(event)) return;
  event.preventDefault();
  event.dataTransfer.dropEffect = wanted() ? "copy" : "none";
  document.body.classList.toggle("dropping", wanted());
}

function leave(event) {
  if (event.relatedTarget === null) document.body.classList.remove("dropping");
}

function drop(event) {
  document.body.classList.remove("dropping");
  if (!carriesFiles(event)) return;
  event.preventDefault();
  const file = wanted() && first(event.dataTransfer.files);
  if (file) take(file);
}

function paste(event) {
  const file = wanted() && event.clipboardData && first(event.clipboardData.files);
  if (!file || !file.type.startsWith("image/")) return;
  event.preventDefault();
  take(file);
}

export function startPicture(isWanted, onWord) {
  [wanted, tell] = [isWanted, onWord];
  document.addEventListener("dragenter", over);
  document.addEventListener("dragover", over);
  document.addEventListener("dragleave", leave);
  document.addEventListener("drop", drop);
  document.addEventListener("paste", paste);
  at("file").addEventListener("change", () => at("file").files[0] && take(at("file").files[0]));
  at("unpick").addEventListener("click", () => {
    clear();
    tell("");
    at("file").focus();
  });
}
