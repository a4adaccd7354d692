"""`main.py watch`: curves in characters, in place until the run has ended; nothing twice, nothing that is not there."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import evaluation.watch
from evaluation.text_plot import clip, dots, draw_curve
from evaluation.watch import frame, look, watch
from main import main
from utils.errors import UserError

ROOT = Path(__file__).parent.parent.parent
HEADER = {"header": True, "time": 1000.0, "resumed_at_step": 0}


def row(phase: str, step: int, **values: Any) -> dict[str, Any]:
    """A step a second, ten steps an epoch."""
    return {"time": 1000.0 + step, "step": step, "epoch": step / 10, "phase": phase, **values}


ROWS = [
    HEADER,
    row("train", 5, loss=4.0, learning_rate=0.5),
    row("epoch", 10, images_per_second=2345.6),
    row("eval", 10, acc=0.25, nmi=0.125, ari=0.0625),
    row("train", 15, loss=2.0, learning_rate=0.25),
    row("estep", 20, churn=0.375, empty=0.0, largest=9.0),
    row("train", 25, loss="NaN"),
]


def made(path: Path, rows: list[dict[str, Any]], status: str = "running", max_steps: int | None = None) -> Path:
    path.mkdir(exist_ok=True)
    (path / "config.yml").write_text(json.dumps({"run": {"max_steps": max_steps}, "optim": {"epochs": 4}}))
    (path / "status.json").write_text(json.dumps({"status": status, "step": 0, "time": 1000.5}))
    if rows:
        (path / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return path


class Screen(io.StringIO):
    """A terminal, or with `tty` False a file, that speaks `encoding`."""

    encoding = "utf-8"  # type: ignore[assignment]
    tty = True

    def isatty(self) -> bool:
        return self.tty


def sleeping(monkeypatch: pytest.MonkeyPatch, *deeds: Callable[[], Any]) -> list[float]:
    """What happens while the command sleeps, once each, and then an error; returns how long it wanted to."""
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        deeds[len(slept) - 1]()

    monkeypatch.setattr(evaluation.watch.time, "sleep", sleep)
    return slept


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Screen:
    screen = Screen()
    monkeypatch.setattr(evaluation.watch, "sys", SimpleNamespace(stdout=screen))  # pytest puts its own into sys.stdout
    sleeping(monkeypatch)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    monkeypatch.setenv("TERM", "xterm")
    return screen


def test_a_rising_line_in_braille_and_in_ascii() -> None:
    rising = [(0.0, 0.0), (3.0, 7.0)]
    assert dots(rising, 2, 2, plain=False) == [" ⡜", "⡜ "]
    assert dots(rising, 4, 2, plain=True) == ["  .'", ".'  "]
    assert dots([(1.0, 5.0)], 3, 1, plain=True) == ["'  "]  # one value alone is a dot


def test_a_curve_has_its_last_value_its_bounds_and_its_first_and_last_epoch() -> None:
    lines = draw_curve("loss", [(0.5, 8.0), (1.0, 2500.0), (12.5, 4.0)], 20, 3, plain=True)
    assert lines == ["loss  4", "2,500| :'..", "     |.'   '''..", "    4|:         ''..", "     +0.5-------12.5"]
    assert draw_curve("lr", [(1.0, 5.0), (2.0, 5.0)], 8, 3, plain=True)[1:4] == [" |", "5|''''''", " |"]


def test_a_run_is_drawn_once_where_the_output_is_no_terminal(tmp_path: Path, screen: Screen) -> None:
    screen.tty = False
    assert main(["watch", str(made(tmp_path / "run", ROWS))]) == 0
    shown = screen.getvalue()
    assert "\x1b" not in shown and shown.startswith("running: ")
    for title in ("loss  2", "learning rate  0.25", "ACC  0.25", "NMI  0.125", "ARI  0.0625", "images/s  2,346",
                  "churn  0.375"):  # fmt: skip
        assert shown.count(title) == 1, title  # NaN is no point: the loss before stands
    assert "⡀" in shown and "█" in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_once_draws_once_on_a_terminal_too(tmp_path: Path, screen: Screen) -> None:
    watch(made(tmp_path / "run", ROWS), 5, once=True)
    assert "\x1b" not in screen.getvalue() and "loss  2" in screen.getvalue()


def test_where_the_terminal_speaks_no_unicode_everything_is_ascii(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a short path: a line ends where the terminal does
    screen.encoding = "ascii"
    watch(made(Path("läuft"), ROWS), 5, once=True)
    assert screen.getvalue().isascii() and "l?uft\n" in screen.getvalue()
    assert "#" in screen.getvalue() and "'" in screen.getvalue()


@pytest.mark.parametrize(("status", "error"), [("completed", None), ("failed", "the disk\nis full")])
def test_a_terminal_is_drawn_in_place_until_the_run_has_ended(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch, status: str, error: str | None
) -> None:
    monkeypatch.chdir(tmp_path)
    path = made(Path("run"), ROWS)
    end = {"status": status, "step": 40, "time": 2000.0} | ({"error": error} if error else {})
    slept = sleeping(
        monkeypatch,
        lambda: made(path, [*ROWS, row("train", 35, loss=1.0)]),
        lambda: (path / "status.json").write_text(json.dumps(end)),
    )
    assert main(["watch", str(path), "--every", "7"]) == 0
    assert slept == [7, 7]
    nothing, *frames = screen.getvalue().split("\x1b[H")
    assert nothing == "\x1b[2J" and ["loss  1\x1b" in shown or "loss  1 " in shown for shown in frames] == [
        False, True, True,
    ]  # fmt: skip
    assert all(shown.endswith("\x1b[J") and shown.count("\n") < 24 for shown in frames)
    assert frames[2].startswith(f"{status}: {path}") and ("! the disk is full" in frames[2]) == bool(error)
    assert "left" in frames[1] and "left" not in frames[2]


def test_control_c_leaves_without_a_traceback(
    tmp_path: Path, screen: Screen, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    sleeping(monkeypatch, interrupt)
    assert main(["watch", str(made(tmp_path / "run", ROWS))]) == 130
    assert capfd.readouterr().err == ""


def test_a_run_without_rows_says_when_they_come_and_half_a_row_is_left_out(tmp_path: Path) -> None:
    path = made(tmp_path / "run", [])
    assert "rows of metrics.jsonl come every log.every_steps steps" in " ".join(
        frame(look(path, 0.0), 200, None, plain=True)
    )
    (path / "status.json").unlink()
    assert look(path, 0.0).status == "running"
    made(path, ROWS)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"time": 1030.0, "step": 30, "epo')
    assert look(path, 1030.0).step == 25


def test_what_a_resumed_run_went_through_again_is_drawn_once_and_it_runs_whatever_it_said_before(
    tmp_path: Path,
) -> None:
    again = [{**HEADER, "time": 5000.0, "resumed_at_step": 10}, {**row("train", 15, loss=7.0), "time": 5005.0}]
    view = look(made(tmp_path / "run", [*ROWS, *again], status="failed"), 5006.0)
    assert dict(view.curves)["loss"] == [(0.5, 4.0), (1.5, 7.0)] and "churn" not in dict(view.curves)
    assert view.status == "running" and not view.ended  # its status is older than its new start
    begun = look(made(tmp_path / "run", [*ROWS, again[0]], status="failed"), 5006.0)
    assert (begun.status, begun.took, begun.left, begun.silent) == ("running", 0.0, None, 6.0)
    assert (view.took, view.left, view.silent) == (5.0, 25 - 1, 1.0)  # 25 steps to go, one a second, one gone by
    assert "took 0:05 since it was resumed at step 10, left 0:24" in frame(view, 120, None, plain=True)[1]


@pytest.mark.parametrize(("max_steps", "left"), [(None, 15.0), (30, 5.0), (20, 15.0)])
def test_time_left_is_to_the_last_step(tmp_path: Path, max_steps: int | None, left: float) -> None:
    view = look(made(tmp_path / "run", ROWS, max_steps=max_steps), 1025.0)  # at 25 of 40; beyond 20: it was resumed
    assert view.left == pytest.approx(left)


def test_a_run_that_is_trained_and_not_scored_yet_says_so(tmp_path: Path) -> None:
    view = look(made(tmp_path / "run", [*ROWS, row("epoch", 40, images_per_second=1.0)]), 1041.0)
    assert "trained; scores and the page are being made" in " ".join(frame(view, 120, None, plain=True))


def test_the_newest_three_warnings_of_the_monitors_are_told_whole(tmp_path: Path) -> None:
    rows = [HEADER]
    for step in range(0, 100, 10):  # clusters are empty at 0, 20, 40, ...
        rows.append(row("estep", step, churn=0.5, empty=float(step // 10 % 2 == 0), largest=float(step)))
    lines = frame(look(made(tmp_path / "run", rows), 2000.0), 40, None, plain=True)
    said = " ".join(line.strip() for line in lines)
    assert "and 2 warnings before ! epoch 4.0: 1 clusters are empty, the largest holds 40 images !" in said
    assert "! epoch 8.0: 1 clusters" in said and "epoch 2.0:" not in said


@pytest.mark.parametrize(("width", "limit"), [(10, 3), (24, 10), (37, 23), (80, 23), (200, 60)])
def test_a_frame_fits_its_terminal(tmp_path: Path, width: int, limit: int) -> None:
    view = look(
        made(tmp_path / ("a long name " * 8).strip(), [*ROWS, row("estep", 30, empty=2.0, largest=7.0)]), 1040.0
    )
    for plain in (False, True):
        assert all(len(line) <= width for line in frame(view, width, None, plain=plain))
        assert len(frame(view, width, limit, plain=plain)) <= limit
    shown = frame(view, width, limit, plain=True)
    assert width < 24 or any("loss" in line for line in shown)
    assert limit < 23 or shown[-1].endswith("images")  # curves that do not fit are left out, not the warning below


def test_wide_characters_take_two_columns_and_none_commands_the_terminal() -> None:
    assert clip("猫猫猫", 5) == "猫猫"
    assert clip("a\x1b[2Jb", 10) == "a?[2Jb"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.yml", None, "no run here"),
        ("config.yml", "run: {}", "has no optim.epochs or run.max_steps"),
        ("metrics.jsonl", "{}\n{}\n", "metrics.jsonl:1: is no row of a run"),
        ("metrics.jsonl", "7\n", "metrics.jsonl:1: is no row of a run"),
        ("metrics.jsonl", "x\n{}\n", "metrics.jsonl:1: is no JSON"),
        ("status.json", "{", "status.json: is damaged"),
    ],
)
def test_what_is_no_run_or_damaged_is_refused_in_one_line(
    tmp_path: Path, file: str, text: str | None, message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = made(tmp_path / "run", ROWS)
    (path / file).unlink() if text is None else (path / file).write_text(text)
    assert main(["watch", str(path)]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("error: ") and message in line


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
def test_a_time_that_is_none_is_refused(tmp_path: Path, seconds: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", str(made(tmp_path / "run", ROWS)), f"--every={seconds}"]) == 2
    assert "--every" in capfd.readouterr().err


def test_torch_is_not_imported(tmp_path: Path) -> None:
    path = made(tmp_path / "run", ROWS, status="completed")
    program = "import sys, main; main.main(sys.argv[1:]); sys.exit('torch' in sys.modules or 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program, "watch", str(path)], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "completed" in done.stdout


def test_a_missing_run_is_named() -> None:
    with pytest.raises(UserError, match="runs/none: no run here"):
        watch(Path("runs/none"), 5, once=True)
