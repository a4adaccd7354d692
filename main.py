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
from utils.process import die_with_launcher, keep_freed_memory

if TYPE_CHECKING:
    from training.build import Run
    from training.log import Log
    from training.run_dir import RunDirectory
    from training.settings import Settings
    from utils.config import Composed


def main(words: list[str]) -> int:
    """Run the command that `words` name; returns the exit code."""
    die_with_launcher()
    keep_freed_memory()
    located: Callable[[UserError], str] = str
    try:
        command, arguments = parse(words, COMMANDS)
        if command in ("train", "views", "resume"):
            composed = compose_words(command, arguments)
            located = composed.locate
            return COMMANDS[command](arguments, composed)
        return COMMANDS[command](arguments)
    except UserError as error:
        return report(located(error))
    except KeyboardInterrupt:
        return 130
    except Exception:
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
    from training.run_dir import RunDirectory

    if is_linear(composed):
        from evaluation.linear import judge_all

        judge_all(composed, [None])
        return 0
    settings = load(composed)
    named = RunDirectory(settings.run.folder / (settings.run.name or ""))
    goes_on = settings.run.resume == "auto" and named.config.is_file()
    return work(settings, composed.name, named if goes_on else None)


def resume(arguments: argparse.Namespace, composed: "Composed") -> int:
    """Go on with a run from its newest good checkpoint."""
    from training.run_dir import find_run

    return work(load(composed), composed.name, find_run(arguments.run))


def load(composed: "Composed") -> "Settings":
    """The settings for as many ranks as were launched."""
    from training.settings import load_settings
    from utils.distributed import launched_world

    return load_settings(composed, launched_world())


def work(settings: "Settings", config_name: str, existing: "RunDirectory | None") -> int:
    """Build, train to the end, evaluate. Collective."""
    from training.begin import new_run, open_run
    from training.build import start
    from training.log import Log
    from training.run_dir import create_run
    from training.settings import caveats, require_same
    from utils.config import compose

    if existing is not None:
        require_same(settings, load(compose([existing.config])))
    device = start(settings.run)
    run = new_run(settings, device) if existing is None else open_run(settings, existing, device)
    if existing is None and not settings.run.debug:
        run.directory = create_run(settings.run.folder, settings.run.name, config_name, settings.to_yaml())
        run.directory.describe_images(run.source)
    try:
        with Log(settings.log, run.directory.path if run.directory else None, run.facts()) as log:
            log.say(run.introduction())
            for caveat in caveats(settings):
                log.warn(caveat)
            run_epochs(run, log)
    except Exception as error:
        if run.directory is not None:
            run.directory.set_status("failed", run.clock.step, error=str(error))
        raise
    return 0


def run_epochs(run: "Run", log: "Log") -> None:
    """Train to the end, with scores between epochs where asked and after the last. Collective."""
    from evaluation.evaluate import evaluate
    from evaluation.report import report_at_end
    from evaluation.scores import epoch_scores
    from training.loop import train as epochs

    every = run.settings.eval.every_epochs
    for epoch in epochs(run, log):
        if every is not None and not epoch.clock.finished and epoch.clock.whole_epochs % every == 0:
            scores = epoch_scores(run, epoch.state, epoch.clock)
            if scores:  # a source without ground truth has none
                log.metrics("eval", epoch.clock.step, epoch.clock.epoch, scores)
                log.say("    " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    evaluate(run)
    if run.directory is not None:
        run.directory.set_status("completed", run.clock.step)
        path = run.directory.path
        drawn = run.settings.eval.report and report_at_end(run, log.warn)
        page = "report.html" if drawn else "clusters.png"
        log.say(f"run directory: {path}")
        log.say(f"next: look at {path}/{page} and {path}/assignments.csv;")
        log.say(f"      python main.py evaluate {path}      gives the scores again")
        log.say(f"      python main.py predict {path} IMAGES   gives the clusters of other images")


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


def report(line: str) -> int:
    """Print a user's error once: rank 0 speaks, the others wait to be ended, 10 s at most. Returns exit code 2."""
    if os.environ.get("RANK", "0") != "0":
        time.sleep(10)
    print(f"error: {line}", file=sys.stderr, flush=True)
    return 2


def leave(code: int) -> None:
    """End the process; with a process group in the one order that does not abort."""
    if "torch" not in sys.modules:
        sys.exit(code)
    from utils.distributed import shutdown

    shutdown(code)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
