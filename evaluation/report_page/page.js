// Draws the page, part by part, and keeps to the colour scheme.

const THEMES = { auto: "◐ Auto", light: "○ Light", dark: "● Dark" };

function setTheme(theme) {
  if (theme === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = THEMES[theme];
  byId("theme").setAttribute("aria-label", `Colours: ${theme}`);
}

function repaint() {
  for (const mark of document.querySelectorAll("[data-color]"))
    mark.style.backgroundColor = color(Number(mark.dataset.color));
  if (view) view.recolor(byId("coloring").value);
}

function listenToTheme() {
  const names = Object.keys(THEMES);
  let theme = "auto";
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = names[(names.indexOf(theme) + 1) % names.length];
    setTheme(theme);
    repaint();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
}

async function drawPage() {
  listenToTheme();
  drawSummary();
  await readColumns();
  byId("loading").remove();
  drawMap();
  drawClusters();
  drawTree();
  drawConfusion();
  byId("training-words").textContent = DATA.took ? `Took ${DATA.took}. ` : "";
  byId("training-words").append(DATA.curves.length ? "All over epochs; first → last value." : "Nothing was recorded.");
  drawCurves("curves", DATA.curves);
  drawSettings();
  document.documentElement.dataset.ready = String(Math.round(performance.now()));
}

drawPage().catch((error) => {
  byId("loading")?.replaceChildren(`The page cannot be drawn: ${error.message}`);
  throw error;
});
