"""All methods with equal settings, some seeds each: scores of clusters, kNN and linear probe, speed; one table.

    python benchmarks/methods.py --suite digits
    python benchmarks/methods.py --suite digits --methods byol,propos --seeds 20 --epochs 5
    python benchmarks/methods.py --suite cifar10-small --seeds 0 --json results.json data.root=FOLDER

Each run is `torchrun --nproc_per_node=WORLD main.py config/SUITE_METHOD.yml run.seed=SEED key=value ...`, one after the
other. Runs lie in runs/benchmark_SUITE/METHOD_SEED; one that is complete is read, not run again, so that the same
command goes on where it was stopped. A second stage goes on from a run of its first, which is run too. A method without
a config, or a run that fails, stays visible. Labels score alone.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.methods_table import record_of, table
from models import METHODS
from training.settings import Settings, load_settings
from utils.config import compose, diff_keys
from utils.duration import duration
from utils.errors import UserError, did_you_mean
from utils.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
SUITES = {"digits": "digits", "cifar10-small": "cifar10_small"}  # name: how its configs begin
FIRST = {"scan": ("simclr",), "temi": ("simclr",), "selflabel": ("scan", "cc")}  # what a second stage goes on from
SECONDS_BETWEEN_LINES = 30
REASON = re.compile(r"^(error: .*|[A-Za-z_.]*(Error|Exception|Interrupt)\b.*)")


def main(arguments: list[str]) -> int:
    """Run what is not there yet, write after each run, print the table. Exit code 1 where a run failed."""
    options = parse(arguments)
    prefix = SUITES[options.suite]
    stages = stages_of(options.methods)
    configs = {stage: ROOT / "config" / f"{prefix}_{stage.method}.yml" for stage in stages}
    report: dict[str, Any] = {
        "suite": options.suite,
        "command": " ".join(["python", *sys.argv]),
        "world": options.world,
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "missing": [stage.label for stage, config in configs.items() if not config.is_file()],
        "runs": [],
    }
    todo = [(stage, seed) for stage in stages if configs[stage].is_file() for seed in options.seeds]
    for folder in (options.folder, options.json.parent):
        folder.mkdir(parents=True, exist_ok=True)
    n_done, spent = 0, 0.0
    for place, (stage, seed) in enumerate(todo):
        print(f"[{place + 1}/{len(todo)}] {stage.label} seed {seed}", flush=True)
        started = time.monotonic()
        record, was_run = one_run(options, configs[stage], stage, seed)
        report["runs"].append(record)
        write_json(options.json, report)
        if was_run:
            n_done, spent = n_done + 1, spent + time.monotonic() - started
        left = f"; left about {duration(spent / n_done * (len(todo) - place - 1))}" if n_done else ""
        print(f"    {outcome(record, was_run)}{left}", flush=True)
    print(f"\n{table(report)}\n\nwrote {options.json}")
    return int(any(record["status"] == "failed" for record in report["runs"]))


class Stage(NamedTuple):
    """A method, and the label of what it goes on from, if anything."""

    method: str
    first: str | None

    @property
    def label(self) -> str:
        """As in the table: 'scan after simclr'."""
        return self.method if self.first is None else f"{self.method} after {self.first.split()[0]}"

    @property
    def folder(self) -> str:
        """As the names of its runs begin."""
        return self.label.replace(" ", "_")


def stages_of(methods: list[str]) -> list[Stage]:
    """What is run for `methods`, first stages before those that go on from them, each once."""
    found: list[Stage] = []
    for method in methods:
        before = stages_of(list(FIRST.get(method, ())))
        found += before
        found += [Stage(method, stage.label) for stage in before if stage.method in FIRST[method]] or [
            Stage(method, None)
        ]
    return list(dict.fromkeys(found))


def parse(arguments: list[str]) -> argparse.Namespace:
    """Options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES, required=True, help="data, encoder and length of the runs")
    parser.add_argument("--methods", default=",".join(METHODS), metavar="A,B", help="default: %(default)s")
    parser.add_argument("--seeds", default="20,21,22", metavar="S,T", help="default: %(default)s")
    parser.add_argument("--epochs", type=int, metavar="N", help="instead of the configs' own")
    parser.add_argument("--world", type=int, default=2, metavar="W", help="processes of a run (default: %(default)s)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="of the runs (default: runs/benchmark_SUITE)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="of the results (default: DIR/results.json)")
    parser.add_argument("words", nargs="*", metavar="key=value", help="for the config of every run")
    options = parser.parse_intermixed_args(arguments)
    options.methods = options.methods.split(",")
    for method in options.methods:
        if method not in METHODS:
            parser.error(f"--methods: {method} is unknown{did_you_mean(method, METHODS)}")
    if not re.fullmatch(r"\d+(,\d+)*", options.seeds):
        parser.error(f"--seeds: {options.seeds} is no list of numbers, as in 20,21,22")
    options.seeds = [int(seed) for seed in options.seeds.split(",")]
    options.folder = options.folder or Path("runs") / f"benchmark_{SUITES[options.suite]}"
    options.json = options.json or options.folder / "results.json"
    if options.epochs is not None:
        options.words = [*options.words, f"optim.epochs={options.epochs}"]
    return options


def one_run(options: argparse.Namespace, config: Path, stage: Stage, seed: int) -> tuple[dict[str, Any], bool]:
    """What one run gave, and whether it was run just now: a complete run of the same settings is only read."""
    name = f"{stage.folder}_{seed}"
    path = options.folder / name
    words = [
        *options.words,
        f"run.seed={seed}",
        f"run.name={name}",
        f"run.folder={options.folder}",
        "eval.report=false",
    ]
    if stage.first is not None:
        words.append(f"run.init_from={options.folder / stage.first.replace(' ', '_')}_{seed}")
    record = {"method": stage.label, "seed": seed, "directory": str(path)}
    try:
        settings = load_settings(compose([config], words), options.world)
        if complete(path):
            require_equal(path, settings, options.world)
            return {**record, "status": "completed", **record_of(path)}, False
        if path.exists():
            shutil.rmtree(path)  # a run that was stopped or failed: timed runs are begun again, not resumed
        reason = launch(command_of(config, words, options.world), options.folder / f"{name}.log")
    except UserError as error:
        return {**record, "status": "failed", "reason": str(error)}, False
    if reason is not None:
        return {**record, "status": "failed", "reason": reason}, True
    return {**record, "status": "completed", **record_of(path)}, True


def command_of(config: Path, words: list[str], world: int) -> list[str]:
    """The command line of a run."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"] if world > 1 else []
    return [sys.executable, *launcher, str(ROOT / "main.py"), str(config), *words]


def launch(command: list[str], log: Path) -> str | None:
    """Run `command` with all it says in `log`, an epoch's line now and then on the console; None, or why it failed."""
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    told = time.monotonic()
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with log.open("w", encoding="utf-8") as file, subprocess.Popen(command, env=environment, **pipes) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                file.write(line)
                if line.startswith("epoch ") and time.monotonic() - told > SECONDS_BETWEEN_LINES:
                    print(f"    {line.rstrip()}", flush=True)
                    told = time.monotonic()
        except BaseException:
            process.terminate()  # torchrun ends its workers
            raise
        code = process.wait()
    if code == 0:
        return None
    reasons = (REASON.match(line) for line in log.read_text(encoding="utf-8").splitlines())
    return next((found[1] for found in reasons if found), f"exit code {code}; see {log}")


def complete(path: Path) -> bool:
    """Whether a run in `path` came to its end."""
    try:
        return bool(json.loads((path / "status.json").read_text())["status"] == "completed")
    except (OSError, ValueError, KeyError):
        return False


def require_equal(path: Path, settings: Settings, world: int) -> None:
    """Raise UserError when the complete run in `path` had other settings or another number of processes."""
    try:
        stored = load_settings(compose([path / "config.yml"]), world).to_values()
        changed = diff_keys(stored, settings.to_values())
    except UserError as error:  # of settings that no longer exist
        changed = [str(error)]
    if read_json(path / "environment.json")["world"] != world:
        changed.append("--world")
    if changed:
        raise UserError(
            str(path), f"holds a run of other settings ({', '.join(changed)})", "remove it, or set --folder"
        )


def outcome(record: dict[str, Any], was_run: bool) -> str:
    """One line on a run."""
    if record["status"] == "failed":
        return f"failed: {record['reason']}"
    scores = "  ".join(f"{name.upper()} {value:.4f}" for name, value in record["scores"].items())
    return f"{scores}  {'in' if was_run else 'done before, in'} {duration(record['seconds'])}"


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
