// What one does with the map: move, zoom, point at, choose, search, show one group.

let view = null;

function drawMap() {
  const { sample, shown } = DATA.layout, total = DATA.run.rows;
  const name = DATA.layout.name.replace("-", "\u2011"); // t-SNE stays on one line
  const points = shown < total ? `${whole(shown)} of ${whole(total)} images, drawn at random, are points. `
    : `${counted(total, "image", "images")}. `;
  const how = sample < shown ? `${whole(sample)} of them, those of the contact sheets and others at random, have a picture, ` +
    `were laid out by ${name} and can be nearest images; every other point lies beside its nearest of these. `
    : `Laid out by ${name}. `;
  byId("map-words").textContent = `${points}${how}Near means alike in the embedding (${DATA.run.features}); ` +
    "distances between far groups mean little. Numbers stand at the middle of their group.";
  view = new MapView(byId("map-canvas"));
  new ResizeObserver(() => view.resize()).observe(byId("map-box"));
  view.resize();
  if (DATA.truth) byId("coloring").append(make("option", { value: "truth" }, "true class"));
  else byId("coloring-field").hidden = true;
  byId("coloring").addEventListener("change", recolorMap);
  byId("zoom-in").addEventListener("click", () => view.zoom(1.5));
  byId("zoom-out").addEventListener("click", () => view.zoom(1 / 1.5));
  byId("zoom-all").addEventListener("click", wholeMap);
  byId("search").addEventListener("input", search);
  byId("search").addEventListener("keydown", (event) => { if (event.key === "Enter") chooseFirstHit(); });
  listenToPointers(byId("map-canvas"));
  listenToKeys(byId("map-canvas"));
  drawChosen();
  drawLegend();
}

function recolorMap() {
  view.marks.emphasis = null;
  view.recolor(byId("coloring").value);
  drawLegend();
}

function wholeMap() {
  view.zoom(1e-9);
}

function place(event) {
  const box = byId("map-canvas").getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
}

// One pointer drags, two pinch, one that has not moved chooses.
function listenToPointers(canvas) {
  const down = new Map();
  let moved = 0;
  canvas.addEventListener("pointerdown", (event) => {
    down.set(event.pointerId, place(event));
    moved = down.size > 1 ? Infinity : 0;
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const now = place(event), before = down.get(event.pointerId);
    if (!before) return event.pointerType === "mouse" ? point(...now) : undefined;
    moved += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (down.size === 2) pinch(down, event.pointerId, now);
    else if (moved > 4) view.move(now[0] - before[0], now[1] - before[1]);
    down.set(event.pointerId, now);
    return hideTip();
  });
  const up = (event) => {
    if (down.delete(event.pointerId) && event.type === "pointerup" && moved <= 4)
      choose(view.nearest(...place(event), event.pointerType === "mouse" ? 12 : 24), false);
  };
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("wheel", wheel, { passive: false });
  canvas.addEventListener("touchmove", (event) => { if (event.touches.length > 1) event.preventDefault(); },
    { passive: false }); // one finger up or down scrolls the page, two are ours
}

function pinch(down, id, now) {
  const [other] = [...down].filter(([key]) => key !== id).map(([, at]) => at), before = down.get(id);
  const apart = (at) => Math.hypot(at[0] - other[0], at[1] - other[1]) || 1;
  view.zoom(apart(now) / apart(before), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  view.move((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
}

function wheel(event) {
  if (event.deltaY > 0 && view.scale === 1) return; // the whole map is seen: the page scrolls on
  event.preventDefault();
  view.zoom(Math.exp(-Math.max(-100, Math.min(100, event.deltaY * (event.deltaMode ? 20 : 1))) / 300), ...place(event));
}

const KEYS = {
  ArrowLeft: () => view.move(60, 0), ArrowRight: () => view.move(-60, 0),
  ArrowUp: () => view.move(0, 60), ArrowDown: () => view.move(0, -60),
  "+": () => view.zoom(1.5), "=": () => view.zoom(1.5), "-": () => view.zoom(1 / 1.5), 0: wholeMap,
  Enter: () => choose(view.nearest(view.wide / 2, view.high / 2, Infinity), false),
  Escape: () => { emphasize(null); choose(-1, false); },
};

function listenToKeys(canvas) {
  const cross = (on) => () => { view.marks.cross = on && canvas.matches(":focus-visible"); view.draw(); };
  canvas.addEventListener("focus", cross(true));
  canvas.addEventListener("blur", cross(false));
  canvas.addEventListener("keydown", (event) => {
    const does = KEYS[event.key === " " ? "Enter" : event.key];
    if (!does || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    view.marks.cross = true;
    does();
    view.draw();
  });
}

function point(left, top) {
  const found = view.nearest(left, top, 12);
  if (found !== view.marks.hover) {
    view.marks.hover = found;
    view.draw();
    if (found >= 0) show("tip", DATA.thumbnailOf[found] < 0 ? null : thumbnail(found),
      make("strong", {}, DATA.names[found]), make("span", {}, groupsOf(found)));
  }
  const tip = byId("tip");
  tip.hidden = found < 0;
  if (found < 0) return;
  tip.style.left = `${Math.min(left + 16, view.wide - tip.offsetWidth - 4)}px`;
  tip.style.top = `${top + 16 + tip.offsetHeight < view.high ? top + 16 : Math.max(4, top - 16 - tip.offsetHeight)}px`;
}

function groupsOf(found) {
  return clusterName(DATA.cluster[found]) + (DATA.truth ? ` · ${classWords(DATA.truth[found])}` : "");
}

function hideTip() {
  byId("tip").hidden = true;
  if (view.marks.hover < 0) return;
  view.marks.hover = -1;
  view.draw();
}
