"""What `main.py` understands: its commands and their words, read before torch is imported."""

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

from utils.errors import UserError, did_you_mean

CONFIG_FILES = (".yml", ".yaml", ".json")  # json: flat configs as W&B exports them
EXAMPLES = """examples:
  python main.py config/digits_propos.yml                          one process
  torchrun --nproc_per_node=2 main.py config/digits_propos.yml     two processes, the same result
  python main.py config/own_images.yml data.root=FOLDER estep.n_clusters=8
  python main.py config/cifar10_r34_propos.yml --dry-run 8        what a run would take, on 8 ranks
  python main.py resume runs/NAME                                  go on where a run stopped
  python main.py evaluate runs/NAME                                scores and assignments.csv again
  python main.py linear runs/NAME --protocol sweep                 linear evaluation of its encoder
  python main.py predict runs/NAME photos --out clusters.csv       the cluster of any images
  python main.py watch runs/NAME                                   its curves in the terminal while it goes on
  python main.py report runs/NAME                                  report.html: the page of a run, again
  python main.py sweep-k runs/NAME --k 2:50                        how many clusters
  python main.py compare runs/A runs/B                             runs side by side
  python main.py export runs/NAME --to onnx                        image to cluster, for other programs
  python main.py prepare imagenet10 --from DIR                     build a data set from its official archives
"""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise UserError instead of printing the usage on every rank."""
        raise UserError("command line", message, f"see {self.prog} --help")


def parse(words: list[str], commands: Collection[str]) -> tuple[str, argparse.Namespace]:
    """(one of `commands`, its arguments); a config file first means train. Raises UserError for an unknown command."""
    if words and not words[0].startswith("-") and words[0] not in commands:
        if not words[0].endswith(CONFIG_FILES) and "=" not in words[0]:
            raise UserError(words[0], "neither a command nor a .yml or .json file" + did_you_mean(words[0], commands))
        words = ["train", *words]
    parser = Parser(
        prog="main.py", epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Deep image clustering and self-supervised pretraining by EM, on any number of ranks.",
    )  # fmt: skip
    known = parser.add_subparsers(dest="command", metavar="CONFIG.yml | COMMAND", required=True)
    _add_training(known)
    _add_judging(known)
    _add_using(known)
    known.add_parser("list", help="methods, data sets, encoders and configs that exist")
    known.add_parser("doctor", help="what this machine can do")
    if words and words[0] in known.choices:  # options may stand between a command's other words
        return words[0], known.choices[words[0]].parse_intermixed_args(words[1:])
    return (arguments := parser.parse_args(words)).command, arguments


def _add_training(known: "argparse._SubParsersAction[Parser]") -> None:
    """What comes before a run, and the run."""
    train = known.add_parser("train", help="train as CONFIG.yml says (the word train may be left out)")
    train.add_argument("words", nargs="+", metavar="CONFIG.yml | section.key=value")
    train.add_argument(
        "--dry-run", type=int, nargs="?", const=0, metavar="RANKS",
        help="print steps, memory, time and messages of the run on so many ranks (default: as launched); train nothing",
    )  # fmt: skip
    resume = known.add_parser("resume", help="go on where a run stopped, on any number of ranks")
    resume.add_argument("run", type=Path, metavar="RUN")
    resume.add_argument("words", nargs="*", default=[], metavar="section.key=value")
    views = known.add_parser("views", help="a PNG of what the model sees")
    views.add_argument("words", nargs="+", metavar="CONFIG.yml | section.key=value")
    views.add_argument("--out", type=Path, default=Path("views.png"), help="where to write it (default: %(default)s)")
    build = known.add_parser("prepare", help="build an ImageNet subset, Tiny-ImageNet or ImageNet from archives")
    build.add_argument("name", metavar="NAME", help="imagenet10, imagenet_dogs, tiny_imagenet or imagenet")
    build.add_argument("--from", dest="given", type=Path, required=True, metavar="DIR", help="archives or folders")
    build.add_argument("--root", type=Path, default=Path("data_files"), help="data.root (default: %(default)s)")


def _add_judging(known: "argparse._SubParsersAction[Parser]") -> None:
    """What runs are worth."""
    judge = known.add_parser(
        "evaluate", help="scores and assignments.csv of runs; trains nothing",
        epilog="example: main.py evaluate runs/A runs/B --data cifar100 data.split=test estep.n_clusters=20",
    )  # fmt: skip
    judge.add_argument("words", nargs="+", metavar="RUN | section.key=value")
    judge.add_argument("--data", metavar="NAME|DIR", help="other images for the same network: a data set or a folder")
    probe = known.add_parser(
        "linear", help="linear evaluation of runs or files of weights, or fine-tuning",
        epilog="example: main.py linear runs/A runs/B --protocol moco method.labels=0.1; protocols: config/linear",
    )  # fmt: skip
    probe.add_argument("words", nargs="+", metavar="RUN | WEIGHTS | section.key=value")
    probe.add_argument("--protocol", default="sweep", metavar="NAME|FILE", help="as published (default: %(default)s)")
    probe.add_argument("--data", metavar="NAME|DIR", help="other images than the run's own: a data set or a folder")
    sweep = known.add_parser("sweep-k", help="how many clusters", epilog="example: main.py sweep-k runs/A --k 2:50")
    sweep.add_argument("run", type=Path, metavar="RUN")
    sweep.add_argument("--k", required=True, metavar="2:50", help="numbers of clusters: 2:50, 2:100:7 or 5,10,20")
    sweep.add_argument("--out", type=Path, metavar="DIR", help="folder of sweep_k.json and .png (default: RUN)")
    beside = known.add_parser("compare", help="runs side by side", epilog="example: main.py compare runs/A runs/B")
    beside.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    beside.add_argument("--out", type=Path, default=Path("compare.png"), help="plot (default: %(default)s), and .json")


def _add_using(known: "argparse._SubParsersAction[Parser]") -> None:
    """What people take away from a run."""
    guess = known.add_parser(
        "predict", help="the cluster of any images, by a run",
        epilog="example: main.py predict runs/NAME photos --out clusters.csv --folders sorted --near cat.jpg",
    )  # fmt: skip
    guess.add_argument("run", type=Path, metavar="RUN")
    guess.add_argument("images", nargs="*", default=[], metavar="IMAGES", help="folders, files, globs, a list of paths")
    guess.add_argument("--out", type=Path, default=Path("clusters.csv"), help="where to write (default: %(default)s)")
    guess.add_argument("--folders", type=Path, metavar="DIR", help="make DIR with a folder of links for each cluster")
    guess.add_argument("--near", type=Path, metavar="IMAGE", help="show the nearest of IMAGES, or of training images")
    page = known.add_parser(
        "report", help="report.html: one page to look at a run, without a network",
        epilog="example: main.py report runs/NAME --out name.html",
    )  # fmt: skip
    page.add_argument("run", type=Path, metavar="RUN")
    page.add_argument("--out", type=Path, metavar="FILE", help="where to write it (default: RUN/report.html)")
    see = known.add_parser(
        "watch", help="the curves of a run in the terminal, until it has ended",
        epilog="example: main.py watch runs/NAME --every 10",
    )  # fmt: skip
    see.add_argument("run", type=Path, metavar="RUN")
    see.add_argument("--every", type=float, default=5, metavar="SECONDS", help="between looks (default: %(default)s)")
    see.add_argument("--once", action="store_true", help="draw once and leave, as where the output is no terminal")
    give = known.add_parser(
        "export", help="a run's network as safetensors, for timm, torch.export or ONNX, with a model card",
        epilog="example: main.py export runs/NAME --to onnx --out models/NAME",
    )  # fmt: skip
    give.add_argument("run", type=Path, metavar="RUN")
    give.add_argument("--to", required=True, metavar="FORMAT", help="safetensors, timm, torch-export or onnx")
    give.add_argument(
        "--what", choices=("encoder", "clusters"), help="encoder alone, or to clusters (default where FORMAT can)"
    )
    give.add_argument("--out", type=Path, metavar="DIR", help="a new folder (default: RUN/export/FORMAT-WHAT)")
