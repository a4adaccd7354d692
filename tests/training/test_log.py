"""What a run says: rows of JSON that always parse, mirrors that never stop it, silence on other ranks."""

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.ranks import run_ranks
from training.log import Log, LogConfig
from utils.errors import UserError

ODD_NAME = "a:b, c's #1 ? näme"  # as an id W&B refuses it
CONFIG = "method:\n  name: byol\noptim:\n  learning_rate: 0.0625\n"


def finished(folder: Path) -> Path:
    """A run's folder with what there is at its end."""
    folder.mkdir()
    (folder / "config.yml").write_text(CONFIG)
    (folder / "report.html").write_text("<p>the page")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "epoch_0002.pt").write_bytes(b"weights")
    (folder / "checkpoints" / "last.pt").symlink_to("epoch_0002.pt")
    Image.new("RGB", (5, 3), (255, 128, 0)).save(folder / "clusters.png")
    return folder


def test_metrics_are_valid_json_below_a_header_and_go_on_after_a_restart(tmp_path: Path) -> None:
    for attempt in (1, 2):
        with Log(LogConfig(), tmp_path, {"attempt": attempt}) as log:
            log.metrics("train", 7, 0.25, {"loss": float("nan"), "learning_rate": 0.5})
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row.get("attempt") for row in rows] == [1, None, 2, None]
    assert rows[1] | {"time": 0} == {
        "time": 0, "step": 7, "epoch": 0.25, "phase": "train", "loss": "NaN", "learning_rate": 0.5,
    }  # fmt: skip


def test_what_a_killed_run_left_of_its_last_row_is_cut_off(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"step": 5}\n{"step": 6, "lo')
    with Log(LogConfig(), tmp_path, {}) as log:
        log.metrics("train", 6, 0.25, {"loss": 1.0})
    assert [json.loads(line).get("step") for line in metrics.read_text().splitlines()] == [5, None, 6]


def test_tensorboard_has_curves_config_and_picture_and_rows_gone_through_again_once(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = finished(tmp_path / ODD_NAME)
    for resumed_at, steps in ((0, (10, 20, 30)), (20, (30, 40))):
        with Log(LogConfig(tensorboard=True), folder, {"resumed_at_step": resumed_at}) as log:
            for step in steps:
                log.metrics("train", step, step / 10, {"loss": step + resumed_at / 100})
    events = accumulator.EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    scalars = [(event.step, round(event.value, 4)) for event in events.Scalars("train/loss")]
    assert scalars == [(10, 10.0), (20, 20.0), (30, 30.2), (40, 40.2)]
    (told, *_) = events.Tensors("optim/text_summary")
    assert '    {\n      "learning_rate": 0.0625\n    }' in told.tensor_proto.string_val[0].decode()
    picture = events.Images("clusters")[-1]
    assert (picture.step, picture.height, picture.width) == (40, 3, 5)


class FakeWandb(SimpleNamespace):
    """Remembers what it is told."""

    def __init__(self) -> None:
        super().__init__(said=[], Settings=dict)

    def init(self, **words: Any) -> Any:
        self.said.append(("init", words))
        return SimpleNamespace(
            define_metric=lambda name, step_metric: self.said.append(("axis", name, step_metric)),
            log=lambda values: self.said.append(("log", values)),
            log_artifact=lambda artifact: self.said.append(("give", artifact.name, artifact.type, artifact.path)),
            finish=lambda exit_code: self.said.append(("finish", exit_code)),
        )

    class Artifact:
        def __init__(self, name: str, type: str) -> None:
            self.name, self.type = name, type

        def add_file(self, path: str) -> None:
            self.path = Path(path).name


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setenv("WANDB_MODE", "offline")
    return fake


@pytest.mark.parametrize("with_checkpoint", [False, True])
def test_wandb_gets_config_and_curves_and_at_the_end_the_page(
    tmp_path: Path, wandb: FakeWandb, with_checkpoint: bool
) -> None:
    folder = finished(tmp_path / ODD_NAME)
    with Log(LogConfig(wandb=True, wandb_checkpoint=with_checkpoint), folder, {"world": 2}) as log:
        log.metrics("train", 7, 0.25, {"loss": 1.5})
    (_, words), *rest = wandb.said
    assert words["config"] == {"method": {"name": "byol"}, "optim": {"learning_rate": 0.0625},
                               "environment": {"world": 2}}  # fmt: skip
    assert words["name"] == ODD_NAME
    checkpoint = ("give", f"checkpoint-{words['id']}", "checkpoint", "epoch_0002.pt")
    assert rest == [
        ("axis", "*", "step"),
        ("log", {"train/loss": 1.5, "step": 7}),
        ("give", f"report-{words['id']}", "report", "report.html"),
        *([checkpoint] if with_checkpoint else []),
        ("finish", 0),
    ]


def test_a_resumed_run_goes_on_in_its_wandb_run_and_another_of_its_name_does_not(
    tmp_path: Path, wandb: FakeWandb
) -> None:
    folders = []
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
        folders.append(finished(tmp_path / place / "seed0"))
    for folder in (folders[0], folders[0], folders[1]):
        with Log(LogConfig(wandb=True), folder, {"resumed_at_step": 5}):
            pass
    asked = [said[1] for said in wandb.said if said[0] == "init"]
    first, again, other = (words["id"] for words in asked)
    assert first == again != other and first.isalnum()
    assert all(words["resume"] == "allow" and words["allow_val_change"] for words in asked)


def test_a_run_that_fails_is_told_so_and_gives_nothing(tmp_path: Path, wandb: FakeWandb) -> None:
    with pytest.raises(ZeroDivisionError), Log(LogConfig(wandb=True), finished(tmp_path / "a"), {}):
        raise ZeroDivisionError
    assert [said for said in wandb.said if said[0] in ("give", "finish")] == [("finish", 1)]


def test_without_a_login_wandb_stays_offline(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_MODE", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    with Log(LogConfig(wandb=True), finished(tmp_path / "a"), {}):
        assert os.environ["WANDB_MODE"] == "offline"


def test_a_mirror_that_fails_is_told_once_and_the_run_goes_on(
    tmp_path: Path, wandb: FakeWandb, capsys: pytest.CaptureFixture[str]
) -> None:
    with Log(LogConfig(wandb=True), finished(tmp_path / "a"), {}) as log:
        log.mirrors[0].run.log = None  # as if its service had died
        for step in (1, 2):
            log.metrics("train", step, 0.1, {"loss": 1.0})
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 3
    assert capsys.readouterr().err == "warning: log.wandb mirrors no more: 'NoneType' object is not callable\n"


def test_real_wandb_offline_needs_no_network_and_keeps_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    for name in ("DATA", "CACHE", "CONFIG"):  # else it writes below the home folder
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name.lower()))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    folder = finished(tmp_path / ODD_NAME)
    config = LogConfig(wandb=True, wandb_checkpoint=True)
    with Log(config, folder, {"world": 2}) as log:
        log.metrics("train", 7, 0.25, {"loss": 1.5})
    (kept,) = folder.glob("wandb/offline-run-*/*.wandb")
    number = (folder / "wandb_id.txt").read_text().strip()
    assert kept.name == f"run-{number}.wandb"
    for word in ("train/loss", "learning_rate", "world", f"report-{number}", f"checkpoint-{number}"):
        assert word.encode() in kept.read_bytes()
    with pytest.raises(UserError, match="log.wandb: W&B does not start: .*Invalid project name 'a/b'"):
        Log(LogConfig(wandb=True, wandb_project="a/b"), folder, {})


def speak(rank: int, world: int, folder: str) -> bool:
    with Log(LogConfig(), Path(folder) / str(rank), {}) as log:
        log.metrics("train", 1, 0.1, {"loss": 1.0})
    return (Path(folder) / str(rank) / "metrics.jsonl").exists()


def test_only_rank_zero_writes(tmp_path: Path) -> None:
    for rank in (0, 1):
        (tmp_path / str(rank)).mkdir()
    assert run_ranks(2, speak, str(tmp_path)) == [True, False]
