"""The loading benchmark as a program."""

from pathlib import Path

import pytest

from benchmarks import loading
from tests.listings import fill


def test_every_way_is_measured_and_the_bar_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fill(tmp_path)
    assert loading.main(["--images", str(tmp_path), "--size", "11", "--repeats", "1"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"5 images of {tmp_path} at 11 px")
    for way in ("decoded into a cache", "streamed, squares", "streamed, two crops", "cached, rows copied", "in memory"):
        assert f"| {way} |" in out
    assert "(bar: 5)" in out
