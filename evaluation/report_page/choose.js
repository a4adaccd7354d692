// The chosen image with its nearest, the legend, and the search.

// Show an image beside the map; with `travel` the map comes into view and moves to it.
function choose(found, travel) {
  Object.assign(view.marks, { chosen: found, near: found < 0 ? [] : neighborsOf(found) });
  drawChosen();
  if (travel && found >= 0) {
    view.middle = [DATA.x[found], DATA.y[found]];
    if (view.scale < 3) view.scale = 3;
    if (view.marks.emphasis !== null && view.groups[found] !== view.marks.emphasis) emphasize(null);
    bringMap();
  }
  view.draw();
}

function drawChosen() {
  const found = view.marks.chosen;
  if (found < 0) {
    show("chosen", make("p", { class: "hint" }, "Choose an image: click a point, or search for a name."));
    return;
  }
  const facts = [["Cluster", clusterButton(DATA.cluster[found])],
    ["Confidence", (DATA.confidence[found] / 65535).toFixed(3)],
    ["Runner-up", DATA.runnerUp[found] === NONE ? "none" : clusterButton(DATA.runnerUp[found])]];
  if (DATA.truth) facts.push(["True class", DATA.truth[found] === NONE ? "unknown" : className(DATA.truth[found])]);
  facts.push(["Row", String(DATA.row[found])]);
  const picture = DATA.thumbnailOf[found] < 0
    ? make("p", { class: "hint" }, "Not in the sample: the page holds no picture of it.") : thumbnail(found, DATA.names[found]);
  const near = neighborsOf(found).map((point) => pictureButton(point,
    make("span", { class: "mark", "aria-hidden": "true" }, swatch(DATA.cluster[point]), label(DATA.cluster[point]))));
  show("chosen", make("div", { class: "chosen-head" }, picture,
    make("div", {}, make("h3", { id: "chosen-name" }, DATA.names[found]),
      make("dl", { class: "facts" }, facts.map(([name, value]) => [make("dt", {}, name), make("dd", {}, value)])))),
  near.length ? make("h4", {}, "Nearest images") : null, make("div", { class: "pictures near" }, near));
}

const label = (number) => (number === NONE ? "–" : String(number));

function clusterButton(number) {
  if (number === NONE) return "none";
  return make("button", { type: "button", class: "quiet", click: () => emphasizeCluster(number) }, swatch(number),
    String(number));
}

function drawLegend() {
  const truth = byId("coloring").value === "truth", named = truth && DATA.class_names;
  const sizes = new Map(view.labels.map(({ group, size }) => [group, size]));
  const groups = [...sizes.keys()].sort((one, other) => one - other);
  const buttons = groups.map((group) => make("li", {}, make("button", { type: "button", class: "legend-item",
    "data-group": group, "aria-pressed": "false", click: () => emphasize(view.marks.emphasis === group ? null : group) },
  swatch(group), make("span", {}, String(group)),
  named ? make("span", { class: "legend-name", title: className(group) }, className(group)) : null,
  make("span", { class: "legend-size" }, whole(sizes.get(group))))));
  show("legend", make("h3", {}, truth ? "True classes" : "Clusters"), make("ul", { class: named ? "legend named" : "legend" }, buttons));
}

// One group in colour and the others pale; null: all.
function emphasize(group) {
  view.marks.emphasis = group;
  for (const item of document.querySelectorAll(".legend-item"))
    item.setAttribute("aria-pressed", String(Number(item.dataset.group) === group));
  view.draw();
}

function emphasizeCluster(number) {
  if (byId("coloring").value !== "cluster") {
    byId("coloring").value = "cluster";
    recolorMap();
  }
  emphasize(number);
}

function showCluster(number) {
  emphasizeCluster(number);
  view.zoom(1e-9);
  bringMap();
}

function bringMap() {
  const { top, bottom } = byId("map-box").getBoundingClientRect();
  if (top < 0 || bottom > window.innerHeight) byId("map-box").scrollIntoView({ block: "start" });
}

const LISTED = 24, RINGED = 500;

function search() {
  const wanted = byId("search").value.trim().toLowerCase();
  const hits = [];
  if (wanted) for (let i = 0; i < DATA.n; i++) if (DATA.names[i].toLowerCase().includes(wanted)) hits.push(i);
  view.marks.hits = hits.slice(0, RINGED);
  view.draw();
  if (!wanted) return show("hits");
  const more = hits.length > LISTED ? `, the first ${LISTED} here` : "";
  const buttons = hits.slice(0, LISTED).map((hit) => make("button", { type: "button", class: "hit",
    click: () => choose(hit, true) }, DATA.thumbnailOf[hit] < 0 ? null : thumbnail(hit), DATA.names[hit]));
  return show("hits", make("p", { class: "fine" }, `${counted(hits.length, "name holds", "names hold")} this${more}.`),
    make("div", { class: "hit-list" }, buttons));
}

function chooseFirstHit() {
  if (view.marks.hits.length) choose(view.marks.hits[0], true);
}
