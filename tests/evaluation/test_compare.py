import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from evaluation.compare import compare, panels, read_record
from training.run_dir import RunDirectory
from utils.errors import UserError


def made(folder: Path, name: str, rows: list[dict[str, Any]], acc: float | None, **optim: Any) -> Path:
    """What a run leaves behind, as far as it is read here."""
    path = folder / name
    path.mkdir()
    config = {"run": {"name": name, "seed": 3}, "optim": {"epochs": 4, **optim}}
    (path / "config.yml").write_text(json.dumps(config))  # JSON is YAML
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    if acc is not None:
        result = {
            "data": "digits", "protocol": "train+test, 1,797 rows", "method": "byol", "features": "projection",
            "n_clusters": 10, "epoch": 4.0, "scores": {"acc": acc}, "embedding": None, "baselines": [], "knn": None,
            "linear": {"accuracy": 0.75, "protocol": "360 test rows"},
        }  # fmt: skip
        (path / "evaluation.json").write_text(json.dumps(result))
    return path


def row(phase: str, step: int, **values: Any) -> dict[str, Any]:
    return {"step": step, "epoch": step / 10, "phase": phase, **values}


HEADER = {"header": True, "world": 2, "device": "cpu", "resumed_at_step": 0}
ROWS = [
    HEADER, row("train", 5, loss=2.0), row("epoch", 10, images_per_second=100.0, loss=9.0), row("eval", 10, acc=0.5),
    row("train", 15, loss=1.0), row("epoch", 20, images_per_second=300.0), row("train", 25, loss="NaN"),
    row("epoch", 30, images_per_second=150.0),
]  # fmt: skip


def test_differences_scores_and_speed_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = made(tmp_path, "one", ROWS, 0.96875, learning_rate=0.1)
    two = made(tmp_path, "two", [HEADER], None, learning_rate=0.2, momentum=None)
    found = compare([one, two], tmp_path / "both.png")
    assert found["config"] == {"optim.learning_rate": [0.1, 0.2], "optim.momentum": [None, "null"]}
    assert found["scores"] == {"clusters: acc": [0.96875, None], "linear: accuracy": [0.75, None]}
    assert found["protocol"]["rows"] == ["train+test, 1,797 rows", None]
    assert found["speed"]["images per second (median of epochs)"] == [150.0, None]
    assert json.loads((tmp_path / "both.json").read_text()) == found
    [loss, _] = panels([read_record(RunDirectory(one))])
    assert loss.lines[0].points == [(0.5, 2.0), (1.5, 1.0)]  # NaN is no point
    with Image.open(tmp_path / "both.png") as picture:
        assert picture.size == (2 * 480, 320 + 16 + 8)  # loss and ACC, of one run
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["one", "two"] in lines and ["optim.learning_rate", "0.1", "0.2"] in lines
    assert ["clusters:", "acc", "0.9688", "-"] in lines


def test_runs_alike_are_said_to_be_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare([made(tmp_path, name, [HEADER], None) for name in ("one", "two")], tmp_path / "both.png")
    printed = capsys.readouterr().out
    assert "config: no difference" in printed and "scores: none" in printed
    assert not (tmp_path / "both.png").exists()  # without curves there is nothing to draw


def test_a_difference_of_the_third_run_alone_is_told(tmp_path: Path) -> None:
    rates = {"one": 0.1, "two": 0.1, "three": 0.2}
    paths = [made(tmp_path, name, ROWS, None, learning_rate=rate) for name, rate in rates.items()]
    found = compare(paths, tmp_path / "three.png")
    assert found["config"] == {"optim.learning_rate": [0.1, 0.1, 0.2]}


def test_runs_of_one_name_are_told_by_their_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        paths.append(made(tmp_path / folder, "same", ROWS, 0.5))
    compare(paths, tmp_path / "both.png")
    assert [str(path) for path in paths] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line.name for line in panels([read_record(RunDirectory(path)) for path in paths])[0].lines] == [
        str(path) for path in paths
    ]


def test_what_a_resumed_run_went_through_again_counts_once(tmp_path: Path) -> None:
    again = [{**HEADER, "resumed_at_step": 10}, row("train", 15, loss=7.0)]
    record = read_record(RunDirectory(made(tmp_path, "one", [*ROWS, *again], None)))
    [loss, _] = panels([record])
    assert loss.lines[0].points == [(0.5, 2.0), (1.5, 7.0)]


def test_a_last_line_that_was_cut_off_is_left_out_and_a_damaged_one_refused(tmp_path: Path) -> None:
    path = made(tmp_path, "one", ROWS, None)
    metrics = path / "metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"step": 3')
    assert len(read_record(RunDirectory(path)).rows) == 7
    metrics.write_text(metrics.read_text() + "\n{}\n")
    with pytest.raises(UserError, match="metrics.jsonl:9: is no JSON"):
        read_record(RunDirectory(path))


@pytest.mark.parametrize(
    ("out", "problem"),
    [("no/both.png", "'.*/no' is no folder that can be written to"), (".", "a folder"), ("x.json", "it is the plot")],
)
def test_a_plot_that_cannot_be_written_is_refused_before_anything_is_told(
    out: str, problem: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = [made(tmp_path, name, ROWS, None) for name in ("one", "two")]
    with pytest.raises(UserError, match=f"--out .*: {problem}"):
        compare(paths, tmp_path / out)
    assert capsys.readouterr().out == "" and len(list(tmp_path.iterdir())) == 2


def test_one_run_is_not_compared(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="1 run given; give two or more"):
        compare([made(tmp_path, "one", ROWS, None)], tmp_path / "both.png")
