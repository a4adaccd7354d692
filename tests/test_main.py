"""The command line from outside: exit codes, one-line errors, what a run leaves behind."""

import contextlib
import io
import json
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch

from benchmarks.launched import DIGITS, ROOT, TINY, TORCHRUN, TWO_RANKS, Done, alive, children, launch, start
from main import main


def call(*words: str) -> Done:
    """main.py with `words` in this process, which is left as it was: a process of its own spends seconds on imports."""
    shown = warnings.formatwarning
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(ROOT), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(list(words))
        except SystemExit as left:  # argparse's after --help
            code = left.code
        finally:
            warnings.formatwarning = shown
            torch.use_deterministic_algorithms(True)
            torch.autograd.set_detect_anomaly(False)
    return Done(code, out.getvalue(), err.getvalue())


def first_error(done: Done) -> str:
    lines = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.err
    return lines[0]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("runs")
    done = call(*TINY, f"run.folder={folder}", "run.name=whole")
    assert done.code == 0, done.err
    return folder / "whole"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["config/nothing.yml"], "config/nothing.yml: no such file"),
        (["trian"], "trian: neither a command nor a .yml or .json file (did you mean train?)"),
        (
            ["prepare", "imagenet11", "--from", "{dir}"],
            "prepare: 'imagenet11' is not prepared (did you mean imagenet10?)",
        ),
        (["resume"], "command line: the following arguments are required: RUN"),
        (["optim.epochs=3"], "CONFIG.yml: no config file given; for instance config/digits_propos.yml"),
        (["{dir}/bad.yml"], "{dir}/bad.yml:3: optim.learnig_rate: no such key (did you mean learning_rate?)"),
        (["{dir}/word.yml"], "{dir}/word.yml:2: optim.weight_decay: 'small' is not a number (default 0.0005)"),
        (["{dir}/broken.yml"], "{dir}/broken.yml:2: not valid YAML: "),
        ([DIGITS, "optim.lr=3"], "command line: optim.lr: no such key"),
        ([DIGITS, "optim.epochs=0"], "command line: optim.epochs: 0 is not at least 1 (default 100)"),
        ([DIGITS, "optim.epochs=1.5"], "command line: optim.epochs: 1.5 is not an integer (default 100)"),
        ([DIGITS, "method.name=prpos"], "command line: method.name: prpos is unknown (did you mean propos?)"),
        (
            [DIGITS, "encoder.name=resnet19"],
            "command line: encoder.name: 'resnet19' is unknown (did you mean resnet18?)",
        ),
        (
            [DIGITS, "encoder.name=timm:resnet19"],
            "command line: encoder.name: 'resnet19' is unknown to timm (did you mean",
        ),
        ([DIGITS, "data.name=digit"], "command line: data.name: 'digit' is unknown (did you mean digits?)"),
        ([DIGITS, "data.name=folder", "data.root={dir}/none"], "command line: data.root: "),
        ([DIGITS, "data.name=folder", "data.root={dir}/photos"], "{dir}/photos: none of its 1 image files can be read"),
        (
            [DIGITS, "data.name=cifar10", "data.root={dir}/empty", "data.download=false"],
            "command line: data.root: no intact cifar10 under '{dir}/empty'; data.download=true fetches it",
        ),
        (
            [DIGITS, "estep.n_clusters=1798"],
            "command line: estep.n_clusters: 1797 images for n_clusters=1798; add images or set estep.n_clusters to",
        ),
        ([DIGITS, "optim.global_batch=1798"], "command line: optim.global_batch: 1798 is more than the 1797 rows"),
        (
            [DIGITS, "method.bn_groups=3"],
            "config/base/digits.yml:7: optim.global_batch: micro-batches of 64 rows cannot be",
        ),
        ([DIGITS, "optim.accumulation=7"], "command line: optim.accumulation: 7 does not divide global_batch 64"),
        ([DIGITS, "run.resume=auto"], "command line: run.resume: auto needs run.name"),
        (["resume", "{dir}"], "{dir}: no run here (config.yml is missing)"),
        (["evaluate", "{dir}/none"], "{dir}/none: no run here (config.yml is missing)"),
    ],
)
def test_wrong_input_costs_one_line_and_exit_code_two(words: list[str], error: str, tmp_path: Path) -> None:
    (tmp_path / "bad.yml").write_text("method: {name: byol}\noptim:\n  learnig_rate: 0.1\n")
    (tmp_path / "word.yml").write_text("method: {name: byol}\noptim: {weight_decay: small}\n")
    (tmp_path / "broken.yml").write_text("method: {name: byol\noptim: [\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    runs = tmp_path / "runs"
    words = [word.format(dir=tmp_path) for word in words]
    if words[0].endswith(".yml"):
        words.append(f"run.folder={runs}")
    done = call(*words)
    assert done.code == 2
    assert done.err.startswith(f"error: {error}".format(dir=tmp_path))
    assert done.err.count("\n") == 1
    assert not runs.exists()


@pytest.mark.parametrize("rank", [0, 3])
def test_batch_that_the_ranks_cannot_share_is_refused_by_rank_zero_first(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", str(rank))
    done = call(DIGITS, "optim.global_batch=250", "method.bn_groups=1")
    assert done.err == (
        "error: command line: optim.global_batch: 250 is not divisible by 4 ranks; nearest: 248 or 252\n"
    )
    assert done.code == 2
    assert waits == ([] if rank == 0 else [10])  # by then the launcher has ended it: one line in all


def test_words_are_refused_before_torch_is_imported() -> None:
    code = "import sys, main; assert main.main(['config/nothing.yml']) == 2; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_shows_an_example_and_every_command() -> None:
    done = call("--help")
    assert done.code == 0
    assert "torchrun --nproc_per_node=2 main.py config/digits_propos.yml" in done.out
    for command in ("train", "resume", "evaluate", "views", "predict", "sweep-k", "compare", "list", "doctor"):
        assert command in done.out


def test_list_names_what_a_config_can_name() -> None:
    out = call("list").out
    for word in ("propos", "byol", "cifar10", "digits", "folder", "resnet18", "timm:NAME", "config/digits_propos.yml"):
        assert word in out


def test_doctor_and_views_run(tmp_path: Path) -> None:
    assert "torch" in call("doctor").out
    done = call("views", DIGITS, "--out", str(tmp_path / "seen.png"))
    assert done.code == 0, done.err
    assert (tmp_path / "seen.png").stat().st_size > 1000


def test_two_ranks_train_evaluate_and_leave_a_whole_run(tmp_path: Path) -> None:
    words = [*TINY, f"run.folder={tmp_path}", "run.name=two", "data.split=test", "eval.report=true"]
    done = launch(TWO_RANKS, *words)
    assert done.code == 0, done.err
    assert done.out.count("run directory:") == 1  # rank 0 alone prints
    assert "Warning" not in done.err
    run = tmp_path / "two"
    assert json.loads((run / "status.json").read_text())["status"] == "completed"
    assert "<!doctype html>" in (run / "report.html").read_text()[:40].lower()
    assert json.loads((run / "images.json").read_text())["n_rows"] == 360
    table = (run / "assignments.csv").read_text().splitlines()
    assert table[0] == "row,path,cluster,confidence,distance,runner_up"
    assert len(table) == 361
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["header"]
    assert {row["phase"] for row in rows[1:]} >= {"train", "estep"}
    scores = json.loads((run / "evaluation.json").read_text())
    assert {"acc", "nmi", "ari"} <= scores["scores"].keys()

    again = launch(TWO_RANKS, *words)
    assert first_error(again).startswith(f"error: command line: run.name: {run} exists; choose another name")
    assert again.code == 1  # torchrun's own
    assert "exitcode  : 2" in again.err  # each worker's

    before = (run / "checkpoints" / "last.pt").read_bytes()
    judged = call("evaluate", str(run))
    assert judged.code == 0, judged.err
    assert json.loads((run / "evaluation.json").read_text())["scores"] == scores["scores"]
    assert (run / "checkpoints" / "last.pt").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "key"),
    [(["resume", "{run}", "optim.epochs=9"], "optim.epochs"), ([*TINY, "run.resume=auto", "run.seed=3"], "run.seed")],
    ids=["resume", "auto"],
)
def test_a_run_that_goes_on_is_not_made_another_one(words: list[str], key: str, whole: Path) -> None:
    named = [] if words[0] == "resume" else [f"run.folder={whole.parent}", f"run.name={whole.name}"]
    refused = call(*(word.format(run=whole) for word in words), *named)
    assert refused.code == 2
    assert first_error(refused).startswith(f"error: command line: {key}: a run that goes on keeps the value")


def test_resolved_config_reproduces_the_run(whole: Path, tmp_path: Path) -> None:
    done = call(str(whole / "config.yml"), f"run.folder={tmp_path}", "run.name=second")
    assert done.code == 0, done.err
    assert (tmp_path / "second" / "assignments.csv").read_text() == (whole / "assignments.csv").read_text()


def test_a_dry_run_tells_what_a_run_would_take_and_writes_nothing(tmp_path: Path) -> None:
    done = call(*TINY, "--dry-run", "4", "method.bn_groups=4", f"run.folder={tmp_path}/runs")
    assert done.code == 0, done.err
    assert "propos on digits (train+test, 1,797 rows), 4 ranks; nothing is trained" in done.out
    assert "28 x 3 epochs = 84" in done.out
    assert list(tmp_path.iterdir()) == []


def test_debug_writes_nothing(tmp_path: Path) -> None:
    done = call(DIGITS, "run.debug=true", f"run.folder={tmp_path}/runs")
    assert done.code == 0, done.err
    assert list(tmp_path.iterdir()) == []


def test_killed_launcher_leaves_no_orphan_and_its_run_goes_on_to_the_same_clusters(whole: Path, tmp_path: Path) -> None:
    words = [*TINY, f"run.folder={tmp_path}", "run.name=killed"]
    guarded = sys.platform == "linux"  # the guard against orphans is Linux' own
    with start([*TORCHRUN, "--nproc_per_node=1"] if guarded else [sys.executable], *words) as killed:
        assert killed.stdout is not None
        next(line for line in killed.stdout if line.startswith("epoch    1"))
        workers = children(killed.pid) if guarded else []
        assert len(workers) == guarded
        killed.kill()
        deadline = time.monotonic() + 60
        while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [pid for pid in workers if alive(pid)] == []
    assert json.loads((tmp_path / "killed" / "status.json").read_text())["status"] == "running"
    done = call(*words, "run.resume=auto")
    assert done.code == 0, done.err
    assert (tmp_path / "killed" / "assignments.csv").read_text() == (whole / "assignments.csv").read_text()
