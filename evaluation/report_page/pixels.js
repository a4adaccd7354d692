// Colours as numbers, discs as offsets into pixels, and where a group's number stands.

function rgb(name) {
  const pen = rgb.pen ||= make("canvas", { width: 1, height: 1 }).getContext("2d", { willReadFrequently: true });
  pen.fillStyle = name;
  pen.fillRect(0, 0, 1, 1);
  return Array.from(pen.getImageData(0, 0, 1, 1).data.slice(0, 3));
}

const mixed = (one, other, share) => one.map((value, place) => Math.round(value * share + other[place] * (1 - share)));
const pack = ([red, green, blue]) => ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;

// `over` on `under`, both packed; cover from 0 to 256. Red and blue are mixed in one go.
function blend(under, over, cover) {
  const pair = (((over & 0xff00ff) * cover + (under & 0xff00ff) * (256 - cover)) >>> 8) & 0xff00ff;
  const green = (((over & 0xff00) * cover + (under & 0xff00) * (256 - cover)) >>> 8) & 0xff00;
  return (0xff000000 | pair | green) >>> 0;
}

// The pixels of a disc, as offsets in an image `wide` pixels wide: those it covers, and those at its edge.
function discOf(radius, wide) {
  const solid = [], edge = [], cover = [], margin = Math.ceil(radius) + 1;
  for (let y = -margin; y <= margin; y++) {
    for (let x = -margin; x <= margin; x++) {
      const part = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(x, y)));
      if (part === 1) solid.push(y * wide + x);
      else if (part > 0.05) { edge.push(y * wide + x); cover.push(Math.round(part * 256)); }
    }
  }
  return { margin, solid: Int32Array.from(solid), edge: Int32Array.from(edge), cover: Uint16Array.from(cover) };
}

// The same order each time: a small generator of our own (mulberry32).
function shuffled(n) {
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[i] = i;
  let state = 1;
  const random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mix = Math.imul(state ^ (state >>> 15), 1 | state);
    mix = (mix + Math.imul(mix ^ (mix >>> 7), 61 | mix)) ^ mix;
    return ((mix ^ (mix >>> 14)) >>> 0) / 4294967296;
  };
  for (let i = n - 1; i > 0; i--) {
    const j = Math.floor(random() * (i + 1)), kept = order[i];
    order[i] = order[j];
    order[j] = kept;
  }
  return order;
}

// Of each group the point that lies nearest to the median of its points; the largest group first.
function middles(groups, n) {
  const members = Array.from({ length: n }, () => []);
  for (let point = 0; point < DATA.n; point++) if (groups[point] < n) members[groups[point]].push(point);
  const median = (values) => Float32Array.from(values).sort()[values.length >> 1];
  return members.map((points, group) => {
    const x = median(points.map((point) => DATA.x[point])), y = median(points.map((point) => DATA.y[point]));
    let best = points[0], least = Infinity;
    for (const point of points) {
      const apart = (DATA.x[point] - x) ** 2 + (DATA.y[point] - y) ** 2;
      if (apart < least) { least = apart; best = point; }
    }
    return { group, size: points.length, x: DATA.x[best], y: DATA.y[best] };
  }).filter(({ size }) => size).sort((one, other) => other.size - one.size);
}
