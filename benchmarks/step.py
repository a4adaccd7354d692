"""What a whole training step costs beside the bare passes of its encoder, and beside itself in float32 NCHW.

    python benchmarks/step.py --json results.json
    python benchmarks/step.py --encoders small method.bn_groups=2      # words of a config, for every step

A step is what the training loop does with a batch: views from uint8 images in memory, online passes forward and
backward, target passes, heads, losses, optimiser, moving average. The bare passes are those of the encoder alone, with
torch's own BatchNorm, on views that are there already: as many forward and backward, and forward without gradient; same
precision, channels_last, no heads, no optimiser. Both make their passes over both views at once or one by one as the
config has it. BatchNorm groups are 1 unless a word says otherwise. In turn; CPU time of one thread, wall-clock time of
several and of a GPU; ratios are of the same round. MFU: share of what one large product of the same precision reaches
on this device. Where lightly is installed, a step of BYOL from its building blocks stands beside ours, on views that
are there already.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.lightly_step import LightlyBYOL, has_lightly
from benchmarks.speed_measure import (
    DEVICE,
    ROOT,
    Steps,
    facts,
    in_turn,
    noise,
    parser,
    prepare,
    product_rate,
    ratio,
    settings_of,
    shown,
    spread,
    table,
    write,
)  # fmt: skip
from models.parts.ema import make_target
from models.parts.encoders import build_encoder
from training.optim import build_optimizer
from training.settings import Settings
from training.step import autocast

METHODS = ("byol", "propos")
LIGHTLY = "byol of lightly's blocks"
CONFIGS = {"small": "cifar10_small", "resnet18": "cifar10_r18"}  # encoder: how its configs begin
BATCH = {"small": 128, "resnet18": 64} if DEVICE.type == "cpu" else {"small": 512, "resnet18": 512}
STEPS = {"small": 8, "resnet18": 1} if DEVICE.type == "cpu" else {"small": 40, "resnet18": 20}  # in a turn
BARE = {"small": 1.12, "resnet18": 1.10}  # at most so many times the bare passes
PLAIN = {"small": 2.4, "resnet18": 1.9}  # at least so many times as fast as in float32 NCHW
PRODUCTS = {"bf16": torch.bfloat16, "fp32": torch.float32}
SHAPE = (3, 32, 32)
N_ROWS = 2048


def main(arguments: list[str]) -> int:
    """Measure, print, write."""
    options = parse(arguments)
    prepare(options.threads)
    report: dict[str, Any] = {**facts(), "threads": options.threads, "rows": [], "ratios": []}
    report["products"] = {name: product_rate(dtype) for name, dtype in PRODUCTS.items()}  # flop a second
    for encoder in options.encoders:
        rows, ratios = measure(encoder, options)
        report["rows"] += rows
        report["ratios"] += ratios
    head = ["encoder", "what", "rows", "ms a step", "images/s", "GFLOP/s", "MFU"]
    print(table([head, *(line(row, report["products"]) for row in report["rows"])]) + "\n")
    print(table([["encoder", "what", "median (quartiles)", "aim", ""], *map(ratio_line, report["ratios"])]))
    write(report, options.json)
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    made = parser(__doc__, repeats=7, threads=1)
    made.add_argument("--encoders", nargs="+", choices=CONFIGS, default=list(CONFIGS), help="default: all")
    made.add_argument("--batch", type=int, metavar="N", help="rows of a step (default: small 128, resnet18 64)")
    made.add_argument("--steps", type=int, metavar="N", help="in a turn (default: small 8, resnet18 1)")
    return made.parse_intermixed_args(arguments)


def measure(encoder: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The contenders of one encoder: a row each, and the ratios that have an aim or tell of one."""
    batch, n_steps = options.batch or BATCH[encoder], options.steps or STEPS[encoder]
    source = noise(max(N_ROWS, 2 * batch), SHAPE)

    def settings(method: str, precision: str) -> Settings:
        words = ["method.bn_groups=1", f"optim.global_batch={batch}", f"optim.precision={precision}", *options.words]
        return settings_of(ROOT / "config" / f"{CONFIGS[encoder]}_{method}.yml", words)

    contenders: dict[str, Callable[[int], None]] = {}
    for precision in ("bf16", "fp32"):
        contenders[f"bare passes, {precision}"] = Bare(settings("byol", precision), batch)
        for method in METHODS:
            contenders[f"{method}, {precision}"] = Steps(settings(method, precision), source)
        if has_lightly():
            net, width = build_encoder(settings("byol", precision).encoder, SHAPE)
            contenders[f"{LIGHTLY}, {precision}"] = LightlyBYOL(net, width, settings("byol", precision), batch, SHAPE)
    for method in METHODS:
        contenders[f"{method}, fp32 NCHW"] = in_nchw(Steps(settings(method, "fp32"), source))
    times = in_turn({name: partial(work, n_steps) for name, work in contenders.items()}, options.repeats)
    rows = [
        {
            "encoder": encoder,
            "what": name,
            "precision": "bf16" if "bf16" in name else "fp32",
            "batch": batch,
            "seconds": [seconds / n_steps for seconds in times[name].fair],
            "wall_seconds": [seconds / n_steps for seconds in times[name].wall],
            "flop": flop(work),
        }
        for name, work in contenders.items()
    ]
    return rows, ratios_of({name: each.fair for name, each in times.items()}, encoder)


def ratios_of(seconds: dict[str, list[float]], encoder: str) -> list[dict[str, Any]]:
    """What has an aim, or tells of one."""
    on_cpu = DEVICE.type == "cpu"
    found = []

    def add(what: str, above: str, below: str, at_most: float | None = None, at_least: float | None = None) -> None:
        values, aim, met = ratio(seconds[above], seconds[below]), None, None
        if at_most is not None:
            aim, met = f"<= {at_most}", values["median"] <= at_most
        elif at_least is not None:
            aim, met = f">= {at_least}", values["median"] >= at_least
        found.append({"encoder": encoder, "what": what, **values, "aim": aim, "met": met})

    for method in METHODS:
        step, plain = f"{method}, bf16", f"{method}, fp32 NCHW"
        add(f"{step}: step / bare passes", step, "bare passes, bf16", at_most=BARE[encoder])
        add(f"{method}, fp32: step / bare passes", f"{method}, fp32", "bare passes, fp32")
        aim = PLAIN[encoder] if on_cpu else None
        add(f"{method}: step in fp32 NCHW / in bf16 channels_last", plain, step, at_least=aim)
    if has_lightly():
        add("byol, bf16: lightly's blocks / ours", f"{LIGHTLY}, bf16", "byol, bf16")
    return found


class Bare:
    """The encoder's passes of a step and nothing else."""

    def __init__(self, settings: Settings, batch: int) -> None:
        net = build_encoder(settings.encoder, SHAPE)[0]
        self.online = net.to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.target, self.precision = make_target(self.online), settings.optim.precision
        n_passes = 1 if settings.method.views_in_one_forward else 2
        views = torch.randn(2 * batch, *SHAPE, device=DEVICE).contiguous(memory_format=torch.channels_last)
        self.views = views.chunk(n_passes)

    def __call__(self, n_steps: int) -> None:
        """As often as so many steps make them."""
        for _ in range(n_steps):
            for parameter in self.online.parameters():
                parameter.grad = None
            with autocast(self.precision, DEVICE):
                features = [self.online(view) for view in self.views]
                with torch.no_grad():
                    for view in self.views:
                        self.target(view)
            torch.autograd.backward(features, [torch.ones_like(each) for each in features])


def in_nchw(steps: Steps) -> Steps:
    """The same, with networks and what they are given in rows of channels, as torch has them by default."""
    run = steps.run
    run.method.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    run.optimizer = build_optimizer(run.settings.optim, run.method.parameter_groups())
    for network in (run.method.online, run.method.target):
        network.register_forward_pre_hook(lambda module, given: given[0].contiguous())
    return steps


def flop(work: Callable[[int], None]) -> int:
    """Floating-point operations of the products and convolutions of one step, two for each multiply-add."""
    with FlopCounterMode(display=False) as counter:
        work(1)
    return counter.get_total_flops()


def line(row: dict[str, Any], products: dict[str, float]) -> list[str]:
    """A row of the first table."""
    seconds = spread(row["seconds"])
    milliseconds = {name: 1000 * value for name, value in seconds.items()}
    speed = f"{row['batch'] / seconds['median']:,.0f}"
    rate = row["flop"] / seconds["median"]
    reached = [f"{rate / 1e9:,.0f}", f"{100 * rate / products[row['precision']]:.0f} %"]
    return [row["encoder"], row["what"], str(row["batch"]), shown(milliseconds, ".4g"), speed, *reached]


def ratio_line(row: dict[str, Any]) -> list[str]:
    """A row of the second table."""
    met = "" if row["met"] is None else "met" if row["met"] else "**missed**"
    return [row["encoder"], row["what"], shown(row, ".3f"), row["aim"] or "-", met]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
