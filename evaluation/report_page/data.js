// The data of the page: columns of numbers, names, thumbnails, colours.

const DATA = JSON.parse(byId("data").textContent);
const NONE = 65535;

// Twenty colours, in the order of greatest difference as all common kinds of colour vision see them (OKLab distance,
// with the dichromacies of Machado et al. 2009); the numbers on the map tell groups apart beyond that.
const PALETTES = {
  light: ["#2870af", "#f79720", "#870000", "#c797ff", "#787800", "#00bf9f", "#602087", "#b76878", "#005050", "#7897bf",
    "#973880", "#a79760", "#9770df", "#805848", "#008f97", "#3848af", "#80bf58", "#386800", "#d77818", "#e797b7"],
  dark: ["#58a7e7", "#ffe780", "#9f4820", "#ef8787", "#6058a7", "#60f7ff", "#878f28", "#007870", "#af70af", "#cfb750",
    "#cfb7ff", "#ffbfaf", "#80b7af", "#a7ffbf", "#977858", "#58af70", "#9f97bf", "#508f87", "#9fd7d7", "#8fcf87"],
};

function bytes(base64) {
  const letters = atob(base64), found = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) found[i] = letters.charCodeAt(i);
  return found;
}

async function inflate(base64) {
  const stream = new Blob([bytes(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

function summed(steps) {
  const found = new Uint32Array(steps.length);
  for (let i = 0, total = 0; i < steps.length; i++) found[i] = total += steps[i];
  return found;
}

// Fills DATA with columns by point (the rows on the map, in ascending order).
async function readColumns() {
  const packed = Object.entries(DATA.columns).filter(([, value]) => value !== null);
  const buffers = await Promise.all(packed.map(([, value]) => inflate(value)));
  const raw = Object.fromEntries(packed.map(([name], place) => [name, buffers[place]]));
  const short16 = (name) => (raw[name] ? new Uint16Array(raw[name]) : null);
  DATA.row = summed(new Uint32Array(raw.row));
  DATA.n = DATA.row.length;
  DATA.x = Float32Array.from(short16("x"), (value) => value / 65535);
  DATA.y = Float32Array.from(short16("y"), (value) => value / 65535);
  Object.assign(DATA, { cluster: short16("cluster"), truth: short16("truth"), runnerUp: short16("runner_up") });
  DATA.confidence = short16("confidence");
  DATA.names = JSON.parse(new TextDecoder().decode(raw.names));
  DATA.sample = summed(new Uint32Array(raw.sample)); // point of each thumbnail
  DATA.thumbnailOf = new Int32Array(DATA.n).fill(-1);
  DATA.sample.forEach((point, thumbnail) => { DATA.thumbnailOf[point] = thumbnail; });
  DATA.neighbors = short16("neighbors");
  DATA.nearest = DATA.neighbors.length / DATA.n;
  DATA.nClasses = DATA.confusion ? DATA.confusion.classes : 0;
}

function neighborsOf(point) {
  const start = point * DATA.nearest;
  return Array.from(DATA.neighbors.subarray(start, start + DATA.nearest), (thumbnail) => DATA.sample[thumbnail]);
}

function pointOfRow(row) {
  let low = 0, high = DATA.n - 1;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (DATA.row[middle] < row) low = middle + 1;
    else high = middle;
  }
  return low;
}

const sheets = new Map();

function sheet(number) {
  if (!sheets.has(number)) {
    const image = new Image();
    image.src = DATA.thumbnails.sheets[number];
    sheets.set(number, image.decode().then(() => image));
  }
  return sheets.get(number);
}

// A canvas with the picture of a point; small pictures are enlarged by whole pixels, so that they stay sharp.
function thumbnail(point, label) {
  const { wide, high, stride, columns, rows } = DATA.thumbnails;
  const place = DATA.thumbnailOf[point];
  const canvas = make("canvas", { width: wide, height: high, class: wide < 32 ? "picture coarse" : "picture" });
  fill(canvas, label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }, []);
  const within = place % (columns * rows);
  const left = (within % columns) * stride, top = Math.floor(within / columns) * stride;
  sheet(Math.floor(place / (columns * rows))).then((image) => {
    canvas.getContext("2d").drawImage(image, left, top, wide, high, 0, 0, wide, high);
  });
  return canvas;
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// Beyond twenty: hues a golden angle apart, in three lightnesses.
function color(number) {
  if (number === NONE) return isDark() ? "#6b7075" : "#9a9a96";
  const palette = PALETTES[isDark() ? "dark" : "light"];
  if (number < palette.length) return palette[number];
  const light = (isDark() ? [72, 55, 85] : [45, 30, 62])[number % 3];
  return `hsl(${((number * 137.508) % 360).toFixed(1)} 60% ${light}%)`;
}

function swatch(number) {
  const mark = make("span", { class: "swatch", "data-color": number, "aria-hidden": "true" });
  mark.style.backgroundColor = color(number);
  return mark;
}

const clusterName = (number) => (number === NONE ? "no cluster" : `cluster ${number}`);
const className = (number) => (DATA.class_names ? DATA.class_names[number] : String(number));
const classWords = (number) => (number === NONE ? "unknown class" : `class ${className(number)}`);
