// The head of the page: what was run, what it is worth, what went wrong on the way.

function drawSummary() {
  const run = DATA.run;
  byId("title").textContent = run.name;
  const end = run.finished ? `${short(run.epoch)} epochs` : `stopped at epoch ${short(run.epoch)} of ${run.epochs}`;
  byId("lead").textContent =
    `${run.method} on ${run.data}: ${run.protocol}, ${counted(run.n_clusters, "cluster", "clusters")}, ${end}, ` +
    `seed ${run.seed}. Page made `;
  byId("lead").append(make("time", {}, run.made), ".");
  drawWarnings();
  if (DATA.evaluation) drawScores(DATA.evaluation);
  else show("figures", make("p", { class: "words" }, "Not evaluated yet: main.py evaluate gives the scores."));
}

function drawWarnings() {
  const told = [...DATA.warnings];
  if (!DATA.run.finished) told.unshift("The run has not ended: these are the clusters of its last E-step.");
  if (DATA.evaluation && DATA.evaluation.epoch !== DATA.run.epoch)
    told.unshift(`The scores are of epoch ${short(DATA.evaluation.epoch)}, the rest of epoch ${short(DATA.run.epoch)}.`);
  if (!told.length) return;
  const list = make("ul", {}, told.map((text) => make("li", {}, text)));
  show("warnings", make("div", { class: "warning", role: "note" }, make("h2", {}, "Warnings"), list));
}

const SCORES = ["acc", "nmi", "ari", "ami", "purity"];

function drawScores(result) {
  const names = SCORES.filter((name) => result.scores && name in result.scores);
  const best = (name) => Math.max(...result.baselines.map((row) => row.scores[name]));
  const figures = names.map((name) => figure(name.toUpperCase(), result.scores[name],
    result.baselines.length ? `pixels ${best(name).toFixed(3)}` : ""));
  if (result.knn) figures.push(figure("kNN", result.knn.accuracy, "with labels"));
  if (result.linear) figures.push(figure("Linear", result.linear.accuracy, "with labels"));
  if (!result.scores) figures.push(make("p", { class: "words" }, "No ground truth: the clusters are not scored."));
  show("figures", figures);
  if (names.length) show("scores", scoreTable(result, names));
  show("protocols", protocols(result).map((text) => make("li", {}, text)));
}

function figure(name, value, note) {
  return make("div", { class: "figure" }, make("span", { class: "figure-name" }, name),
    make("span", { class: "figure-value" }, value.toFixed(3)), make("span", { class: "figure-note" }, note));
}

function scoreTable(result, names) {
  const others = [result.embedding, result.assigned].filter(Boolean);
  const rows = [{ name: result.name || result.method, features: result.features, scores: result.scores }]
    .concat(others, result.baselines)
    .map((row) => [`${row.name}, ${row.features}`, ...names.map((name) => row.scores[name] ?? "–")]);
  const caption = `${result.data}: ${result.protocol}; K = ${result.n_clusters}, epoch ${short(result.epoch)}, ` +
    `seed ${result.seed}. Classes serve to score alone.`;
  return table(caption, ["Clusters by", ...names.map((name) => name.toUpperCase())], rows);
}

function protocols(result) {
  const { knn, linear, retrieval } = result;
  const found = [];
  if (knn) found.push(`kNN ${knn.accuracy.toFixed(4)}: ${knn.features}, ${knn.protocol}, k = ${knn.neighbors}, ` +
    `temperature ${knn.temperature}.`);
  if (linear) found.push(`Linear probe ${linear.accuracy.toFixed(4)}: ${linear.features}, ${linear.protocol}, ` +
    `L2 ${linear.l2}, best ${linear.chosen}.`);
  if (retrieval) {
    const recalls = Object.keys(retrieval).filter((name) => name.startsWith("recall"));
    found.push(`Retrieval: ${recalls.map((name) => `${name} ${retrieval[name].toFixed(4)}`).join(", ")}, ` +
      `mAP ${retrieval.map.toFixed(4)}: ${retrieval.features}, ${retrieval.protocol}.`);
  }
  const sizes = result.clusters;
  found.push(`${sizes.used} of ${counted(result.n_clusters, "cluster", "clusters")} used, ` +
    `${whole(sizes.smallest)} to ${counted(sizes.largest, "image", "images")} each.`);
  return found;
}

function drawSettings() {
  const { total, files } = DATA.skipped;
  if (!total) show("skipped", make("p", { class: "words" }, "No file was skipped."));
  else {
    const caption = files.length < total ? `The first ${files.length} of ${whole(total)} files that are no images`
      : counted(total, "file that is no image", "files that are no images");
    const rows = files.map(([path, reason]) => [path, reason]);
    show("skipped", make("details", { open: total <= 10 }, make("summary", {}, `Skipped files: ${whole(total)}`),
      make("div", { class: "wide skipped" }, table(caption, ["File", "Reason"], rows))));
  }
  byId("config").textContent = DATA.config;
  show("environment", Object.entries(DATA.environment).map(([name, value]) => [make("dt", {}, name),
    make("dd", {}, value !== null && typeof value === "object"
      ? Object.entries(value).map(([key, text]) => `${key} ${text}`).join(", ") : String(value))]));
}
