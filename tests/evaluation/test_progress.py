import pytest

from evaluation import progress
from evaluation.progress import Progress


def test_long_work_says_now_and_then_how_far_it_is_and_how_long_the_rest_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    times = iter([100.0, 109.0, 120.0, 125.0])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(times))
    told = Progress("made, parts", 1010)
    told.add(2)
    assert capsys.readouterr().out == ""
    told.add(8)
    assert capsys.readouterr().out == "made, parts: 10 of 1,010  left 33:20\n"  # 20 s for 10
    told.add(10)
    assert capsys.readouterr().out == ""
