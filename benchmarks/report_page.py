"""The page of a run with many images, of made data: how long it takes to make, to open and to move, and its size.

    python -m benchmarks.report_page --rows 100000 [--side 48] [--keep FILE.html]

Needs playwright and Debian's chromium. A headless browser draws without a GPU: with one, frames are no slower.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from evaluation import report
from evaluation.report_html import build_page
from evaluation.report_rows import Rows, choose_rows, cluster_means, make_strips, nearest_of_sample, next_clusters
from training.run_dir import RunDirectory

K, D, CLASSES = 20, 64, 20
MOVE = """async () => {
  const frames = [], drawn = [];
  view.zoom(2);
  await new Promise(requestAnimationFrame);
  let before = performance.now();
  for (let frame = 0; frame < 120; frame++) {
    view.move(frame % 40 < 20 ? 4 : -4, 2 * Math.sin(frame));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
    const now = performance.now();
    frames.push(now - before);
    drawn.push(view.spent);
    before = now;
  }
  return { frames, drawn };
}"""


class MadeImages:
    """Smooth pictures with a little noise, about as compressible as photographs; names as a data set has them."""

    name, protocol = "made", "train, made rows"

    def __init__(self, n_rows: int, side: int) -> None:
        self.n_rows, self.image_shape = n_rows, (3, side, side)

    def read(self, rows: Tensor) -> Tensor:
        """(B, 3, side, side) uint8: coarse noise, enlarged, with fine noise on it."""
        side = self.image_shape[1]
        coarse = torch.stack([torch.rand((3, 8, 8), generator=torch.Generator().manual_seed(int(row))) for row in rows])
        smooth = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic")
        fine = 0.08 * torch.randn(smooth.shape, generator=torch.Generator().manual_seed(int(rows[0])))
        return ((smooth + fine).clamp(0, 1) * 255).to(torch.uint8)

    def path(self, row: int) -> str:
        """A name as ImageNet has them, with a number of its own."""
        return f"n{row % 1000:08d}/n{row % 1000:08d}_{row * 7919 % 99991}.JPEG"

    def read_truth(self, rows: Tensor | None = None) -> Tensor:
        """A class for each row."""
        return torch.arange(self.n_rows) % CLASSES

    def class_names(self) -> None:
        """They have numbers alone."""


def made_rows(n_rows: int) -> Rows:
    """What `look_at_rows` would give of overlapping Gaussian clusters."""
    torch.manual_seed(0)
    centers = torch.randn(K, D)
    labels = torch.randint(K, (n_rows,))
    features = torch.nn.functional.normalize(centers[labels] + 0.9 * torch.randn(n_rows, D), dim=1)
    means = cluster_means(features, labels, K)
    following = next_clusters(means)
    typical = (features * means[labels]).sum(1)
    confidence = torch.sigmoid(6 * typical).double()
    numbers = torch.stack([confidence, typical.double(), -typical.double()], 1)
    strips = make_strips(labels, numbers, following.tolist())
    shown, sample = choose_rows(n_rows, strips, 0)
    neighbors = nearest_of_sample(features[shown], features[sample], shown, sample)
    return Rows(labels, confidence, following[labels], means, strips, shown, sample, features[sample], neighbors)


def make(n_rows: int, side: int, folder: Path) -> str:
    """The page."""
    (folder / "config.yml").write_text("run: {name: made}\n")
    rows_of_log = [{"header": True, "time": 0.0}]
    rows_of_log += [
        {"step": i, "epoch": i / 50, "phase": "train", "time": float(i), "loss": 1 / (1 + i)} for i in range(5000)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows_of_log)))
    run: Any = SimpleNamespace(
        source=MadeImages(n_rows, side),
        settings=SimpleNamespace(run=SimpleNamespace(seed=0), method=SimpleNamespace(name="made")),
        method=SimpleNamespace(n_clusters=K, embed_name="made features"),
        clock=SimpleNamespace(epoch=100.0, epochs=100, finished=True),
    )
    report.caveats = lambda settings: []  # type: ignore[attr-defined]  # there are no settings
    return build_page(report.gather_page(run, RunDirectory(folder), made_rows(n_rows)), "made")


def measure(file: Path, width: int) -> None:
    """Print how the page opens and moves: time on the wall, and of the page's thread alone, which other load spares."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        thread = page.context.new_cdp_session(page)
        thread.send("Performance.enable", {"timeDomain": "threadTicks"})

        def busy() -> float:
            found = thread.send("Performance.getMetrics")["metrics"]
            return next(each["value"] for each in found if each["name"] == "TaskDuration")

        opened = []
        for _ in range(3):
            page.goto("about:blank")
            worked, begun = busy(), time.perf_counter()
            page.goto(file.as_uri())
            page.locator("html[data-ready]").wait_for(state="attached", timeout=60_000)
            opened.append((time.perf_counter() - begun, busy() - worked))
        page.wait_for_timeout(2_000)  # pictures are decoded
        worked = busy()
        found = page.evaluate(MOVE)
        a_frame = (busy() - worked) / len(found["frames"]) * 1000
        browser.close()
    told = {name: (statistics.median(each), sorted(each)[len(each) * 95 // 100]) for name, each in found.items()}
    print(f"{width} px wide: drawn and ready {', '.join(f'{wall:.2f}' for wall, _ in opened)} s after opening")
    print(f"  of these its thread worked {', '.join(f'{work:.2f}' for _, work in opened)} s")
    for name, words in (("drawn", "drawing the points"), ("frames", "frame to frame")):
        print(f"  while moving, {words}: {told[name][0]:.1f} ms (median), {told[name][1]:.1f} ms (95 %)")
    print(f"  its thread worked {a_frame:.1f} ms a frame")


def main() -> None:
    """Make, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--side", type=int, default=48)
    parser.add_argument("--keep", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.perf_counter()
        file = arguments.keep or folder / "page.html"
        file.write_text(make(arguments.rows, arguments.side, folder), encoding="utf-8")
        print(
            f"{arguments.rows:,} rows: made in {time.perf_counter() - begun:.0f} s, {file.stat().st_size / 1e6:.1f} MB"
        )
        for width in (1440, 390):
            measure(file, width)


if __name__ == "__main__":
    main()
