"""Words in, a run out: `torchrun --nproc_per_node=2 main.py config/digits_propos.yml run.seed=1`.

Words are parsed before torch is imported. Errors of the user cost one line and exit code 2.
"""

import argparse
import os
import shutil
import sys
import textwrap
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from utils.command_line import CONFIG_FILES, parse
from utils.errors import UserError
from utils.process import die_with_launcher, had_user_error, keep_freed_memory, remember_user_error

if TYPE_CHECKING:
    from training.settings import Settings
    from utils.config import Composed


def main(words: list[str]) -> int:
    """Run the command that `words` name; returns the exit code."""
    die_with_launcher()
    keep_freed_memory()
    if had_user_error():
        return 2  # it has been told, and trying again changes nothing
    located: Callable[[UserError], str] = str
    try:
        command, arguments = parse(words, COMMANDS)
        if command in ("train", "views", "resume"):
            composed = compose_words(command, arguments)
            located = composed.locate
            return COMMANDS[command](arguments, composed)
        return COMMANDS[command](arguments)
    except UserError as error:
        remember_user_error()
        report(located(error))
        return 2
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if (text := lost_rank(error)) is not None:
            report(text)
        else:
            traceback.print_exc()
        return 1


def compose_words(command: str, arguments: argparse.Namespace) -> "Composed":
    """The files and overrides of a command line, composed; prints the fate of an earlier flat config's keys."""
    from utils.config import compose

    if command == "resume":
        from training.run_dir import find_run

        return compose([find_run(arguments.run).config], arguments.words)
    files = [Path(word) for word in arguments.words if word.endswith(CONFIG_FILES) and "=" not in word]
    if not files:
        raise UserError("CONFIG.yml", "no config file given", "for instance config/digits_propos.yml")
    composed = compose(files, [word for word in arguments.words if Path(word) not in files])
    if composed.fates and os.environ.get("RANK", "0") == "0":
        print("flat config of the earlier ProPos repository, key by key:")
        print("\n".join(f"  {line}" for line in composed.fates))
    return composed


def train(arguments: argparse.Namespace, composed: "Composed") -> int:
    """Train a new run, or go on with run.name where run.resume=auto says so; or a linear evaluation by its config."""
    from evaluation.linear_settings import is_linear
    from evaluation.whole_run import work

    if is_linear(composed):
        from evaluation.linear import judge_all

        judge_all(composed, [None])
        return 0
    if arguments.dry_run is not None:
        return dry_run(composed, arguments.dry_run)
    work(load(composed), composed.name, None)
    return 0


def dry_run(composed: "Composed", world: int) -> int:
    """Print what a run would take on `world` ranks, 0 for as many as were launched; trains nothing."""
    from training.dry_run import describe
    from training.settings import load_settings
    from utils.distributed import launched_world

    world = world or launched_world()
    if os.environ.get("RANK", "0") == "0":
        print(describe(load_settings(composed, world), world))
    return 0


def resume(arguments: argparse.Namespace, composed: "Composed") -> int:
    """Go on with a run from its newest good checkpoint."""
    from evaluation.whole_run import work
    from training.run_dir import find_run

    work(load(composed), composed.name, find_run(arguments.run))
    return 0


def load(composed: "Composed") -> "Settings":
    """The settings for as many ranks as were launched."""
    from training.settings import load_settings
    from utils.distributed import launched_world

    return load_settings(composed, launched_world())


def evaluate(arguments: argparse.Namespace) -> int:
    """Score runs as they stand, on their own images or on others; trains nothing."""
    from evaluation.several_runs import evaluate_runs

    evaluate_runs(arguments.words, arguments.data)
    return 0


def linear(arguments: argparse.Namespace) -> int:
    """Score runs by a linear classifier of their features, as published protocols have it."""
    from evaluation.linear import linear

    linear(arguments.words, arguments.protocol, arguments.data)
    return 0


def predict(arguments: argparse.Namespace) -> int:
    """Tell the clusters of any images."""
    from evaluation.predict_images import predict_images

    predict_images(arguments.run, arguments.images, arguments.out, arguments.folders, arguments.near)
    return 0


def views(arguments: argparse.Namespace, composed: "Composed") -> int:
    """Write a PNG of images beside their views."""
    from training.preview import write_views

    write_views(load(composed), arguments.out)
    print(f"wrote {arguments.out}")
    return 0


def prepare_set(arguments: argparse.Namespace) -> int:
    """Build a published data set from what its publishers hand out."""
    from data.prepare import prepare

    made = prepare(arguments.name, arguments.given, arguments.root, print)
    print(f"{arguments.name} lies in {made}; data.name={arguments.name} data.root={arguments.root}")
    return 0


def watch(arguments: argparse.Namespace) -> int:
    """Draw the curves of a run while it goes on."""
    from evaluation.watch import watch

    watch(arguments.run, arguments.every, arguments.once)
    return 0


def write_report(arguments: argparse.Namespace) -> int:
    """Draw the page of a run."""
    from evaluation.report import report as draw_report

    draw_report(arguments.run, arguments.out)
    return 0


def sweep_k(arguments: argparse.Namespace) -> int:
    """Say how many clusters a run's embedding holds."""
    from evaluation.choose_k import sweep_k

    sweep_k(arguments.run, arguments.k, arguments.out)
    return 0


def compare(arguments: argparse.Namespace) -> int:
    """Show runs side by side."""
    from evaluation.compare import compare

    compare(arguments.runs, arguments.out)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write a run's network in a format that others read."""
    from evaluation.export import export_run

    export_run(arguments.run, arguments.to, arguments.what, arguments.out)
    return 0


def list_names(arguments: argparse.Namespace) -> int:
    """Print what a config can name."""
    from training.settings import names

    for what, known in names().items():
        width = shutil.get_terminal_size().columns
        print(textwrap.fill(" ".join(known), width, initial_indent=f"{what:10} ", subsequent_indent=" " * 11))
    return 0


def doctor(arguments: argparse.Namespace) -> int:
    """Print what this machine can do."""
    from utils.doctor import doctor_lines

    print("\n".join(doctor_lines()))
    return 0


COMMANDS: dict[str, Callable[..., int]] = {
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "linear": linear,
    "predict": predict,
    "watch": watch,
    "report": write_report,
    "sweep-k": sweep_k,
    "compare": compare,
    "export": export,
    "views": views,
    "prepare": prepare_set,
    "list": list_names,
    "doctor": doctor,
}


def report(line: str) -> None:
    """Print an error that all ranks have met once: rank 0 speaks, the others wait to be ended, 10 s at most."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(10)
    print(f"error: {line}", file=sys.stderr, flush=True)


def lost_rank(error: Exception) -> str | None:
    """A line on an error that comes of another rank's end; None for others."""
    if "torch" not in sys.modules:
        return None
    from utils.process_group import lost_another

    return lost_another(error)


def leave(code: int) -> None:
    """End the process; with a process group in the one order that does not abort."""
    if "torch" not in sys.modules:
        sys.exit(code)
    from utils.process_group import part

    part(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
