"""Views per second of one CPU thread beside torchvision (PIL one by one, tensors one by one) and kornia; and fidelity.

    python benchmarks/augment.py
    python benchmarks/augment.py --images data_files --json results.json      # CIFAR-10 there, or a folder of images
    python benchmarks/augment.py --device cuda                                # ours alone, on a GPU

The recipe of every contender: random crop (area 0.08 to 1) back to the image's size, flip, colour jitter (0.4, 0.4,
0.4, 0.1; 80 %), grey (20 %), blur where it says so (50 %, sigma 0.1 to 2, kernel a tenth of the side), normalise to
float32. CPU time of the process for images that lie in memory, the contenders in turn, after a warm-up; ratios are of
medians. Without --images the pixels are 1/f noise, the spectrum of photographs. glibc is told to keep freed memory, for
all contenders: else each batch waits for its pages anew, which costs ours up to half of its speed (--give-back).
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
KEEP_MEMORY = dict.fromkeys(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"), str(2**30))
PIL, OURS, KORNIA = "torchvision, PIL", "ours", "kornia, batched"
BATCH = {32: 256, 96: 128, 224: 32}
SINGLY = {32: 128, 96: 64, 224: 16}  # images a turn of those who take them one by one
BARS = {  # (side, blur, peer): at least so many times its speed
    (32, False, PIL): 40.0,
    (32, False, KORNIA): 15.0,
    (96, False, PIL): 7.0,
    (224, False, PIL): 8.0,
    (224, True, PIL): 7.0,
}
CASES = [(32, False), (96, False), (96, True), (224, False), (224, True)]
LARGEST_SHARE = 0.04  # of a training step of the small net


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    environment = {**os.environ, **ONE_THREAD, **({} if options.give_back else KEEP_MEMORY), "PYTHONPATH": str(ROOT)}
    if options.device == "cpu" and environment != dict(os.environ):  # read when libraries are loaded: start again
        os.execve(sys.executable, [sys.executable, str(Path(__file__).resolve()), *arguments], environment)
    sys.path.insert(0, str(ROOT))
    import torch

    from benchmarks import augment_contenders, clustering_measure

    torch.set_num_threads(1)
    print(f"{'side':>4} {'blur':>5}  {'contender':24}{'views/s':>10}{'ours /':>8}{'bar':>6}")
    report: dict[str, Any] = {
        "date": clustering_measure.now(),
        "commit": clustering_measure.commit(ROOT),
        "machine": clustering_measure.machine(),
        "versions": augment_contenders.versions(),
        "images": str(options.images or "1/f noise"),
        "malloc": "gives freed memory back" if options.give_back else "keeps freed memory",
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "cpu, 1 thread",
        "speed": [],
    }
    for side, blur in CASES:
        images = augment_contenders.images(side, BATCH[side], options.images)
        if options.device == "cuda":
            rows = [row(side, blur, OURS, on_gpu(images.cuda(), blur, options.repeats), {})]
        else:
            rows = race(side, blur, augment_contenders.contenders(images, SINGLY[side], blur), options.repeats)
        report["speed"] += rows
        print("\n".join(map(line, rows)), flush=True)
    if options.device == "cpu":
        report["fidelity"] = augment_contenders.fidelity(augment_contenders.images(32, 256, options.images))
        report["share"] = augment_contenders.share_of_step(options.repeats)
        print("\n".join(checks(report["fidelity"], report["share"])))
    print(
        "\n".join(
            f"{name}: {report[name]}"
            for name in ("device", "images", "malloc", "machine", "versions", "commit", "date")
        )
    )
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, metavar="DIR", help="CIFAR-10's root, or a folder of images")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--give-back", action="store_true", help="let glibc give freed memory back to the system, as it does by default"
    )
    parser.add_argument("--repeats", type=int, default=9, metavar="N", help="turns of each contender")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write everything")
    return parser.parse_args(arguments)


def race(side: int, blur: bool, contenders: dict[str, tuple[int, Callable[[], Any]]], repeats: int) -> list[dict]:
    """One row each of contenders (views they make a turn, how), which take turns; the first turn does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-1, repeats):
        for name, (n_views, make) in contenders.items():
            start = time.process_time()
            make()
            if turn >= 0:
                seconds[name].append((time.process_time() - start) / n_views)
    speeds = {name: 1 / statistics.median(values) for name, values in seconds.items()}
    return [row(side, blur, name, speed, speeds, seconds[name]) for name, speed in speeds.items()]


def row(
    side: int, blur: bool, name: str, speed: float, speeds: dict[str, float], seconds: list[float] | None = None
) -> dict[str, Any]:
    """One line of the report; `met` is None where there is no bar."""
    ratio, bar = speeds.get(OURS, speed) / speed, BARS.get((side, blur, name))
    return {
        "side": side,
        "blur": blur,
        "contender": name,
        "views_per_second": speed,
        "seconds_per_view": seconds,
        "ratio": ratio,
        "bar": bar,
        "met": None if bar is None else ratio >= bar,
    }


def line(found: dict[str, Any]) -> str:
    """A row in words."""
    verdict = "" if found["bar"] is None else f"{found['bar']:>6.0f} {'met' if found['met'] else 'MISSED'}"
    blur = "yes" if found["blur"] else "no"
    speed = f"{found['views_per_second']:>10,.0f}{found['ratio']:>8.1f}"
    return f"{found['side']:>4} {blur:>5}  {found['contender']:24}{speed}{verdict}"


def checks(fidelity: dict[str, float], share: float) -> list[str]:
    """Lines on fidelity and on the share of a step."""

    def verdict(met: bool) -> str:
        return "met" if met else "MISSED"

    levels, hsv = fidelity["crop_resize_levels"], fidelity["hsv_mean"]
    return [
        f"crop and resize against PIL, integer boxes: at most {levels:.3f} grey levels apart (bar 1: "
        f"{verdict(levels <= 1.001)}), {fidelity['crop_resize_mean']:.4f} of full scale on average",
        f"hsv colours against PIL op by op: {hsv:.4f} of full scale on average (bar 0.007: {verdict(hsv <= 0.007)}); "
        f"yiq, another hue: {fidelity['yiq_mean']:.4f}",
        f"two views in a step of the small net (two views forward and backward, two forward; bfloat16, 128 images): "
        f"{share:.1%} of its time (bar {LARGEST_SHARE:.0%}: {verdict(share <= LARGEST_SHARE)})",
    ]


def on_gpu(images: Any, blur: bool, repeats: int) -> float:
    """Views per second of ours on the GPU that `images` lie on, the median of repeats of eight batches."""
    import torch

    from benchmarks import augment_contenders

    images = images.repeat(4, 1, 1, 1)
    make = augment_contenders.ours(images, blur)
    speeds = []
    for turn in range(-2, repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(8):
            make()
        torch.cuda.synchronize()
        if turn >= 0:
            speeds.append(8 * 2 * len(images) / (time.perf_counter() - start))
    return statistics.median(speeds)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
