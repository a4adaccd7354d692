// Curves, bars and the tree of the clusters, as SVG.

const PLOT = { wide: 360, high: 190, left: 46, right: 10, top: 10, bottom: 26 };
const DASHES = [null, "6 4", "2 3", "8 3 2 3"];

function drawCurves(where, panels) {
  show(where, panels.map((panel) => make("figure", { class: "curve" },
    make("figcaption", {}, make("strong", {}, panel.title), panel.lines.map((line, number) => key(panel, line, number))),
    plot(panel))));
}

// The name of a line with its first and last value; it doubles as the legend.
function key(panel, line, number) {
  const first = short(line.points[0][1]), last = short(line.points.at(-1)[1]);
  const stroke = makeSvg("svg", { class: "key", viewBox: "0 0 22 8", "aria-hidden": "true" }, makeSvg("line",
    { x1: 0, x2: 22, y1: 4, y2: 4, class: `line line-${number % 4}`, "stroke-dasharray": DASHES[number % 4] }));
  const name = panel.lines.length > 1 ? `${line.name} ` : "";
  return make("span", { class: "key-text" }, panel.lines.length > 1 ? stroke : null, `${name}${first} → ${last}`);
}

function range(values) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  const around = high > low ? (high - low) * 0.04 : Math.abs(low) * 0.1 || 1;
  return [low - around, high + around];
}

function plot(panel) {
  const points = panel.lines.flatMap((line) => line.points);
  const [left, right] = range(points.map(([x]) => x)), [low, high] = range(points.map(([, y]) => y));
  const x = (value) => PLOT.left + (value - left) / (right - left) * (PLOT.wide - PLOT.left - PLOT.right);
  const y = (value) => PLOT.high - PLOT.bottom - (value - low) / (high - low) * (PLOT.high - PLOT.top - PLOT.bottom);
  const svg = makeSvg("svg", { viewBox: `0 0 ${PLOT.wide} ${PLOT.high}`, role: "img", "aria-label": told(panel) });
  for (const [value, words] of ticks(low, high, 4)) svg.append(
    makeSvg("line", { class: "grid", x1: PLOT.left, x2: PLOT.wide - PLOT.right, y1: y(value), y2: y(value) }),
    makeSvg("text", { x: PLOT.left - 6, y: y(value) + 4, "text-anchor": "end" }, words));
  for (const [value, words] of ticks(Math.max(0, left), right, 5)) svg.append(
    makeSvg("text", { x: x(value), y: PLOT.high - 8, "text-anchor": "middle" }, words));
  panel.lines.forEach((line, number) => svg.append(stroke(line, number, x, y)));
  return svg;
}

function stroke(line, number, x, y) {
  if (line.points.length === 1) {
    const [[at, value]] = line.points;
    return makeSvg("circle", { class: `dot line-${number % 4}`, cx: x(at), cy: y(value), r: 3 });
  }
  const path = line.points.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ");
  return makeSvg("polyline",
    { class: `line line-${number % 4}`, points: path, "stroke-dasharray": DASHES[number % 4] });
}

function told(panel) {
  const lines = panel.lines.map((line) =>
    `${line.name} from ${short(line.points[0][1])} to ${short(line.points.at(-1)[1])}`);
  return `${panel.title}, over epochs: ${lines.join("; ")}`;
}

// A bar a cluster, the largest first; a click shows the cluster on the map.
function drawSizes() {
  const order = DATA.clusters.map((cluster, number) => number)
    .sort((one, other) => DATA.clusters[other].size - DATA.clusters[one].size);
  const most = DATA.clusters[order[0]].size || 1;
  const bars = order.map((number) => {
    const bar = make("span", { class: "bar-fill", "data-color": number });
    bar.style.height = `${DATA.clusters[number].size / most * 100}%`;
    bar.style.backgroundColor = color(number);
    const words = `cluster ${number}: ${counted(DATA.clusters[number].size, "image", "images")}`;
    return make("button", { type: "button", class: "bar-column", title: words, "aria-label": `Show ${words}`,
      click: () => showCluster(number) }, make("span", { class: "bar-room" }, bar),
    make("span", { class: "bar-name" }, String(number)));
  });
  show("sizes", make("figure", {}, make("figcaption", {}, make("strong", {}, "Images in each cluster"), " ",
    `${whole(DATA.clusters[order.at(-1)].size)} to ${whole(most)}`), make("div", { class: "bars" }, bars)));
}

// Leaves are rows of one height at the right; the lines left of them share that height.
function drawTree() {
  const tree = DATA.tree;
  if (!tree) {
    show("tree", make("p", { class: "words" }, "Fewer than two clusters hold images."));
    return;
  }
  const n = tree.leaves.length, top = Math.max(...tree.merges.map(([, , height]) => height)) || 1;
  const at = tree.leaves.map((leaf, place) => ({ x: 100, y: place + 0.5 }));
  const across = (height) => 100 - 98 * height / top;
  const paths = tree.merges.map(([left, right, height]) => {
    const [one, other] = [at[left], at[right]], x = across(height);
    at.push({ x, y: (one.y + other.y) / 2 });
    return `M${one.x} ${one.y}H${x}V${other.y}H${other.x}`;
  });
  const root = at.at(-1);
  const lines = makeSvg("path", { d: `${paths.join("")}M0 ${root.y}H${root.x}` });
  const svg = makeSvg("svg", { viewBox: `0 0 100 ${n}`, preserveAspectRatio: "none", role: "img",
    "aria-label": `Dendrogram of ${n} clusters, in the order of the list beside it` }, lines);
  const scale = make("div", { class: "tree-scale", "aria-hidden": "true" },
    make("span", {}, `distance ${short(top)}`), make("span", {}, "0"));
  show("tree", make("div", { class: "tree" }, make("div", { class: "tree-lines" }, svg, scale),
    make("ol", { class: "tree-leaves" }, tree.leaves.map(treeLeaf))));
}

function treeLeaf(number) {
  const cluster = DATA.clusters[number];
  const pictures = (cluster.typical || []).slice(0, 6).map((row) => thumbnail(pointOfRow(row)));
  const name = make("button", { type: "button", class: "leaf-name", click: () => showCluster(number) },
    swatch(number), `${number}`, make("span", { class: "leaf-size" }, whole(cluster.size)));
  name.setAttribute("aria-label", `Show cluster ${number}, ${counted(cluster.size, "image", "images")}`);
  return make("li", {}, name, make("span", { class: "leaf-pictures" }, pictures));
}
