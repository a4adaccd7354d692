// Contact sheets of the clusters, and the confusion matrix.

const STRIPS = [
  ["typical", () => "Most typical"],
  ["uncertain", () => "Most uncertain"],
  ["toward", (cluster) => `Nearest to cluster ${cluster.next}, the next one`],
];

function drawClusters() {
  const withSheets = DATA.clusters.map((cluster, number) => number).filter((number) => DATA.clusters[number].typical);
  const used = DATA.clusters.filter((cluster) => cluster.size).length;
  const some = withSheets.length < used ? `The ${withSheets.length} largest of ${used} clusters have a sheet. ` : "";
  byId("clusters-words").textContent =
    `${some}Typical: nearest to the cluster’s mean in the embedding. Uncertain: the smallest confidence. ` +
    "Nearest to the next one: leaning most towards the mean that is closest to the cluster’s own.";
  drawSizes();
  drawCurves("cluster-curves", DATA.cluster_curves);
  const watch = new IntersectionObserver((seen) => {
    for (const entry of seen.filter((one) => one.isIntersecting)) {
      watch.unobserve(entry.target);
      fillCard(entry.target);
    }
  }, { rootMargin: "800px" });
  const cards = withSheets.map(card);
  show("sheets", cards);
  cards.forEach((element) => watch.observe(element));
}

function card(number) {
  const cluster = DATA.clusters[number], total = DATA.run.rows;
  const facts = [`${counted(cluster.size, "image", "images")} (${share(cluster.size / total)})`,
    `mean confidence ${cluster.confidence.toFixed(3)}`];
  if (cluster.classes && cluster.classes.length)
    facts.push(cluster.classes.map(([name, count]) => `${classWords(name)}: ${share(count / cluster.size)}`).join(", "));
  const head = make("header", {}, make("h3", {}, swatch(number), `Cluster ${number}`),
    make("p", {}, facts.join(" · ")),
    make("button", { type: "button", class: "quiet", click: () => showCluster(number) }, "Show on the map"));
  return make("article", { class: "card", id: `cluster-${number}`, "data-cluster": number }, head,
    make("div", { class: "strips" }));
}

// Pictures are drawn when their card comes near the window: a hundred cards would hold thousands of them.
function fillCard(element) {
  const cluster = DATA.clusters[Number(element.dataset.cluster)];
  const strips = STRIPS.filter(([kind]) => cluster[kind].length).map(([kind, title]) => make("figure", { class: "strip" },
    make("figcaption", {}, title(cluster)),
    make("div", { class: "pictures" }, cluster[kind].map((row) => pictureButton(pointOfRow(row))))));
  element.querySelector(".strips").replaceChildren(...strips);
}

function pictureButton(point, mark) {
  const words = `${DATA.names[point]}, ${clusterName(DATA.cluster[point])}`;
  return make("button", { type: "button", class: "picture-button", title: words, "aria-label": words,
    click: () => choose(point, true) }, thumbnail(point), mark || null);
}

function drawConfusion() {
  const confusion = DATA.confusion;
  if (!confusion) {
    byId("classes").remove();
    document.querySelector('nav a[href="#classes"]').remove();
    return;
  }
  if (!confusion.counts) {
    show("confusion", make("p", { class: "words" }, `${confusion.classes} classes in ${confusion.clusters.length} ` +
      "clusters are too many to print; each cluster’s sheet names its commonest classes."));
    return;
  }
  const words = "Rows are true classes, columns clusters, in the order that fits the classes best, one to one (as for " +
    "ACC). Shade: share of the class.";
  show("confusion", make("p", { class: "words" }, words),
    make("div", { class: "wide", tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, matrix(confusion)));
}

function matrix({ clusters, counts }) {
  const head = make("tr", {}, make("th", { scope: "col" }, "class"),
    clusters.map((name) => make("th", { scope: "col" }, swatch(name), String(name))), make("th", { scope: "col" }, "all"));
  const rows = counts.map((row, name) => {
    const all = row.reduce((sum, count) => sum + count, 0);
    return make("tr", {}, make("th", { scope: "row", title: className(name) }, className(name)),
      row.map((count, place) => matrixCell(count, all, place === name)), make("td", { class: "sum" }, whole(all)));
  });
  return make("table", { class: "matrix" }, make("caption", {}, "Images of each class in each cluster"),
    make("thead", {}, head), make("tbody", {}, rows));
}

function matrixCell(count, all, matched) {
  const cell = make("td", { class: matched ? "matched" : null, title: all ? `${share(count / all)} of the class` : null },
    count ? whole(count) : make("span", { class: "zero" }, "0"));
  cell.style.setProperty("--shade", `${Math.round(100 * (all ? count / all : 0))}%`);
  return cell;
}
