"""The command line from outside: exit codes, one-line errors, what a run leaves behind."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from main import main

ROOT = Path(__file__).parent.parent
TINY = [
    "config/digits_propos.yml", "encoder.name=tiny", "method.hidden_dim=11", "method.projection_dim=7",
    "method.warmup_epochs=1", "optim.epochs=2", "estep.n_init=1", "estep.final_n_init=1", "run.checkpoint_minutes=0",
]  # fmt: skip


def call(*words: str, ranks: int = 1) -> subprocess.CompletedProcess[str]:
    """main.py with `words`, under torchrun on several ranks."""
    program = [sys.executable, "main.py"]
    if ranks > 1:
        program = [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={ranks}",
            "main.py",
        ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    return subprocess.run([*program, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240)


def first_error(done: subprocess.CompletedProcess[str]) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    return lines[0]


DIGITS = "config/digits_propos.yml"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["config/nothing.yml"], "config/nothing.yml: no such file"),
        (["trian"], "trian: neither a command nor a .yml file (did you mean train?)"),
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
def test_wrong_input_costs_one_line_and_exit_code_two(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.yml").write_text("method: {name: byol}\noptim:\n  learnig_rate: 0.1\n")
    (tmp_path / "word.yml").write_text("method: {name: byol}\noptim: {weight_decay: small}\n")
    (tmp_path / "broken.yml").write_text("method: {name: byol\noptim: [\n")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no picture")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(ROOT)
    runs = tmp_path / "runs"
    words = [word.format(dir=tmp_path) for word in words]
    if words[0].endswith(".yml"):
        words.append(f"run.folder={runs}")
    assert main(words) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: {error}".format(dir=tmp_path))
    assert told.count("\n") == 1
    assert not runs.exists()


def test_batch_that_the_ranks_cannot_share_is_refused_by_rank_zero() -> None:
    done = call(DIGITS, "optim.global_batch=250", "method.bn_groups=1", ranks=4)
    assert first_error(done) == (
        "error: command line: optim.global_batch: 250 is not divisible by 4 ranks; nearest: 248 or 252"
    )
    assert done.returncode == 1  # torchrun's own; each worker ends with 2
    assert "exitcode  : 2" in done.stderr


def test_words_are_refused_before_torch_is_imported() -> None:
    code = "import sys, main; assert main.main(['config/nothing.yml']) == 2; assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_help_shows_an_example_and_every_command() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert "torchrun --nproc_per_node=2 main.py config/digits_propos.yml" in done.stdout
    for command in ("train", "resume", "evaluate", "views", "list", "doctor"):
        assert command in done.stdout


def test_list_names_what_a_config_can_name() -> None:
    out = call("list").stdout
    for word in ("propos", "byol", "cifar10", "digits", "folder", "resnet18", "timm:NAME", "config/digits_propos.yml"):
        assert word in out


def test_doctor_and_views_run(tmp_path: Path) -> None:
    assert "torch" in call("doctor").stdout
    done = call("views", TINY[0], "--out", str(tmp_path / "seen.png"))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "seen.png").stat().st_size > 1000


def test_two_ranks_train_evaluate_and_leave_a_whole_run(tmp_path: Path) -> None:
    done = call(*TINY, f"run.folder={tmp_path}", "run.name=two", ranks=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run directory:") == 1  # rank 0 alone prints
    assert "Warning" not in done.stderr
    run = tmp_path / "two"
    assert json.loads((run / "status.json").read_text())["status"] == "completed"
    table = (run / "assignments.csv").read_text().splitlines()
    assert table[0] == "row,path,cluster,confidence,distance,runner_up"
    assert len(table) == 1798
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["header"]
    assert {row["phase"] for row in rows[1:]} >= {"train", "estep"}
    scores = json.loads((run / "evaluation.json").read_text())
    assert {"acc", "nmi", "ari"} <= scores["scores"].keys()

    again = call(*TINY, f"run.folder={tmp_path}", "run.name=two", ranks=2)
    assert "run.name: " in again.stderr
    assert "exists; choose another name" in again.stderr
    assert again.returncode == 1  # torchrun's; each worker ends with 2

    before = (run / "checkpoints" / "last.pt").read_bytes()
    judged = call("evaluate", str(run))
    assert judged.returncode == 0, judged.stderr
    assert json.loads((run / "evaluation.json").read_text())["scores"] == scores["scores"]
    assert (run / "checkpoints" / "last.pt").read_bytes() == before
    refused = call("resume", str(run), "optim.epochs=9")
    assert first_error(refused).startswith("error: command line: optim.epochs: a run that goes on keeps the value")
    other = call(*TINY, f"run.folder={tmp_path}", "run.name=two", "run.resume=auto", "run.seed=3")
    assert first_error(other).startswith("error: command line: run.seed: a run that goes on keeps the value")


def test_resolved_config_reproduces_the_run(tmp_path: Path) -> None:
    assert call(*TINY, f"run.folder={tmp_path}", "run.name=first").returncode == 0
    config = tmp_path / "first" / "config.yml"
    done = call(str(config), f"run.folder={tmp_path}", "run.name=second")
    assert done.returncode == 0, done.stderr
    tables = [(tmp_path / name / "assignments.csv").read_text() for name in ("first", "second")]
    assert tables[0] == tables[1]


def test_debug_writes_nothing(tmp_path: Path) -> None:
    done = call("config/digits_propos.yml", "run.debug=true", f"run.folder={tmp_path}/runs")
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_killed_run_goes_on_with_auto_resume_to_the_same_clusters(tmp_path: Path) -> None:
    words = [*TINY, "optim.epochs=3", f"run.folder={tmp_path}"]
    assert call(*words, "run.name=whole").returncode == 0
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    program = [sys.executable, "main.py", *words, "run.name=killed"]
    with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as killed:
        assert killed.stdout is not None
        for line in killed.stdout:
            if line.startswith("epoch    1"):
                killed.kill()
    assert json.loads((tmp_path / "killed" / "status.json").read_text())["status"] == "running"
    done = call(*words, "run.name=killed", "run.resume=auto")
    assert done.returncode == 0, done.stderr
    assert "going on at step " in done.stdout
    tables = [(tmp_path / name / "assignments.csv").read_text() for name in ("whole", "killed")]
    assert tables[0] == tables[1]


@pytest.mark.skipif(sys.platform != "linux", reason="the guard is Linux' own")
def test_killed_launcher_leaves_no_orphans(tmp_path: Path) -> None:
    words = [*TINY, "optim.epochs=5000", f"run.folder={tmp_path}"]
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "main.py", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as launcher:
        assert launcher.stdout is not None
        next(line for line in launcher.stdout if line.startswith("epoch"))
        workers = children(launcher.pid)
        assert len(workers) == 2
        launcher.kill()
    deadline = time.monotonic() + 60
    while any(alive(pid) for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [pid for pid in workers if alive(pid)] == []


def children(parent: int) -> list[int]:
    """Pids of the processes that `parent` started."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(stat.read_text().rpartition(")")[2].split()[1]) == parent:
                found.append(int(stat.parent.name))
    return found


def alive(pid: int) -> bool:
    """Whether the process runs; one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
