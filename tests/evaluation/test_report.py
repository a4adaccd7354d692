"""The page of a run as a file: what it holds, that it is only data, and that it needs nothing from elsewhere."""

import base64
import json
import re
import zlib
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import main
from evaluation import report, report_rows
from evaluation.report import report_at_end, write_report
from evaluation.report_html import as_script
from evaluation.report_map import principal_plane
from evaluation.report_rows import look_at_rows
from evaluation.scores import scored_state
from tests.evaluation.fakes import fake_run
from tests.ranks import run_ranks
from tests.runs import tiny_run
from training.build import Run
from training.log import Log
from training.loop import train
from training.run_dir import create_run

NAME = "<img src=x onerror=alert(1)>.png"
DTYPES = {"row": np.uint32, "sample": np.uint32}


def trained(folder: Path, method: str = "propos", *, epochs: int = 1, stop: int | None = None, **changes: Any) -> Run:
    """A run on the 360 test rows of the digits, with its folder."""
    run = tiny_run(method, optim__epochs=epochs, data__split="test", **changes)
    run.directory = create_run(folder, method, "test", run.settings.to_yaml())
    with Log(run.settings.log, run.directory.path, run.facts()) as log:
        for _ in islice(train(run, log), stop):
            pass
    return run


@pytest.fixture
def run(judged_run: Run) -> Run:
    """A run that has ended and was evaluated."""
    return judged_run


@pytest.fixture
def flat(monkeypatch: pytest.MonkeyPatch) -> None:
    """A map in no time."""
    monkeypatch.setattr(report, "lay_out", lambda features, seed: (principal_plane(features), "PCA"))


def page_of(run: Run, folder: Path) -> tuple[str, dict[str, Any]]:
    """The page as text, and its data."""
    assert run.directory is not None
    out = folder / "page.html"
    assert write_report(run, run.directory, out) == out.stat().st_size
    text = out.read_text(encoding="utf-8")
    return text, data_in(text)


def data_in(text: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def column(data: dict[str, Any], name: str) -> Any:
    raw = zlib.decompress(base64.b64decode(data["columns"][name]))
    if name == "names":
        return json.loads(raw)
    values = np.frombuffer(raw, DTYPES.get(name, np.uint16))
    return values.cumsum() if name in DTYPES else values


def test_the_page_tells_of_the_run_with_protocol_and_baselines(run: Run, tmp_path: Path, flat: None) -> None:
    text, data = page_of(run, tmp_path)
    assert run.directory is not None and run.state is not None
    assert data["evaluation"] == json.loads((run.directory.path / "evaluation.json").read_text())
    assert data["evaluation"]["baselines"] and data["config"] == run.directory.config.read_text()
    assert (data["run"]["name"], data["run"]["rows"], data["run"]["finished"]) == ("propos", 360, True)
    assert [panel["title"] for panel in data["curves"]][:2] == ["Loss", "Parts of the loss"]
    assert data["layout"] == {"name": "PCA", "sample": 360, "shown": 360}
    assert data["skipped"] == {"total": 0, "files": []} and "packages" in data["environment"]
    assert column(data, "cluster").tolist() == run.state.labels.tolist()  # type: ignore[union-attr]
    assert column(data, "truth").tolist() == run.source.read_truth(None).tolist()  # type: ignore[union-attr]
    assert column(data, "row").tolist() == column(data, "sample").tolist() == list(range(360))
    assert column(data, "names")[3] == run.source.path(3)
    assert sum(map(sum, data["confusion"]["counts"])) == sum(each["size"] for each in data["clusters"]) == 360
    assert "<title>propos · Emblem</title>" in text and 50_000 < len(text) < 1_000_000


def test_the_page_asks_for_nothing_from_elsewhere_and_runs_no_script_but_its_own(
    run: Run, tmp_path: Path, flat: None
) -> None:
    text, _ = page_of(run, tmp_path)
    outside = re.sub(r'<script type="application/json".*?</script>', "", text, flags=re.DOTALL)
    assert set(re.findall(r"https?://[^\s\"']+", outside)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"<link|<iframe|src=|@import|url\(|innerHTML|insertAdjacent|document\.write|eval\(", outside)
    assert "default-src 'none'" in text and "script-src 'sha256-" in text and "unsafe" not in text
    assert "@@" not in outside


def test_names_from_files_stay_data(run: Run, tmp_path: Path, flat: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run.directory is not None
    monkeypatch.setattr(run.source, "path", lambda row: NAME if row == 2 else "</script><b>@@script@@\udcff")
    monkeypatch.setattr(run.source, "class_names", lambda: (NAME, *["</script>\udcff"] * 9))
    (run.directory.path / "skipped.csv").write_text(f"path,reason\n{NAME},<script>alert(1)</script>\n")
    text, data = page_of(run, tmp_path)
    (run.directory.path / "skipped.csv").unlink()
    assert data["class_names"][:2] == [NAME, "</script>\udcff"]
    assert column(data, "names")[1:3] == ["</script><b>@@script@@\udcff", NAME]
    assert data["skipped"] == {"total": 1, "files": [[NAME, "<script>alert(1)</script>"]]}
    assert "<img" not in text and "onerror=alert(1)>" not in text and text.count("</script>") == 2


def test_json_in_a_script_ends_nothing() -> None:
    text = as_script({"a": "</script><!--&", "b": float("nan"), "c": Path("x")})
    assert not set(text) & set("<>&") and json.loads(text) == {"a": "</script><!--&", "b": "NaN", "c": "x"}


def test_without_truth_nothing_is_said_of_classes(
    run: Run, tmp_path: Path, flat: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run.source, "read_truth", lambda rows=None: None)
    _, data = page_of(run, tmp_path)
    assert (
        data["confusion"] is data["columns"]["truth"] is data["class_names"] is None
        and "classes" not in data["clusters"][0]
    )


def test_an_empty_cluster_has_a_size_and_no_pictures(run: Run, tmp_path: Path, flat: None) -> None:
    assert run.state is not None and run.state.labels is not None
    labels = torch.where(run.state.labels == 3, 4, run.state.labels)
    _, data = page_of(replace(run, state=replace(run.state, labels=labels)), tmp_path)
    assert data["clusters"][3] == {"size": 0, "classes": []}
    assert sorted(data["tree"]["leaves"]) == [0, 1, 2, 4, 5, 6, 7, 8, 9] and len(data["tree"]["merges"]) == 8
    assert all(each.get("next") != 3 for each in data["clusters"])


def test_a_method_with_a_cluster_head_that_stopped_half_way_has_a_page(tmp_path: Path, flat: None) -> None:
    run = trained(tmp_path, "cc", epochs=2, stop=1)
    _, data = page_of(run, tmp_path)
    assert (data["run"]["finished"], data["run"]["epoch"], data["evaluation"]) == (False, 1.0, None)
    assert sum(each["size"] for each in data["clusters"]) == 360


def test_a_card_shows_the_nearest_to_the_mean_the_least_sure_and_the_neighbours_side(run: Run) -> None:
    rows = look_at_rows(run)
    features = torch.nn.functional.normalize(run.method.embed(run.views.clean(run.store.images(torch.arange(360)))))
    mine = (rows.cluster == 2).nonzero()[:, 0]
    mean = torch.nn.functional.normalize(features[mine].mean(0), dim=0)
    others = rows.means @ mean
    others[2] = -1
    strip = rows.strips[2]
    assert strip.next == int(others.argmax())
    assert strip.typical.tolist() == mine[(features[mine] @ mean).argsort(descending=True)[:12]].tolist()
    assert strip.uncertain.tolist() == mine[rows.confidence[mine].argsort(stable=True)[:12]].tolist()
    lean = features[mine] @ (rows.means[strip.next] - mean)
    assert strip.toward.tolist() == mine[lean.argsort(descending=True)[:12]].tolist()


def test_of_many_rows_some_are_points_fewer_have_pictures_and_neighbours_are_among_these(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_rows, "SAMPLE", 330)
    monkeypatch.setattr(report_rows, "SHOWN", 350)
    monkeypatch.setattr(report_rows, "PER_STRIP", 2)
    rows = look_at_rows(run)
    assert (len(rows.shown), len(rows.sample), rows.neighbors.shape) == (350, 330, (350, 8))
    pictured = set(rows.sample.tolist())
    assert pictured < set(rows.shown.tolist())
    assert all(set(strip.typical.tolist() + strip.toward.tolist()) <= pictured for strip in rows.strips.values())
    features = torch.nn.functional.normalize(run.method.embed(run.views.clean(run.store.images(torch.arange(360)))))
    cosine = features[rows.shown] @ features[rows.sample].T
    cosine[rows.shown[:, None] == rows.sample] = -2
    assert torch.equal(rows.neighbors, cosine.argsort(dim=1, descending=True, stable=True)[:, :8])


def rows_of_rank(rank: int, world: int) -> list[Any]:
    run: Any = fake_run()
    run.state = scored_state(run, None, run.clock)
    rows = look_at_rows(run)
    strips = [(name, s.typical, s.uncertain, s.toward, s.next) for name, s in rows.strips.items()]
    return [rows.cluster, rows.confidence, rows.means, rows.sample, rows.features, rows.neighbors, strips]


def test_two_ranks_see_the_same_rows_as_one() -> None:
    alone = rows_of_rank(0, 1)
    for found in run_ranks(2, rows_of_rank):
        for one, other in zip(alone[:-1], found[:-1], strict=True):
            torch.testing.assert_close(one, other)
        assert str(found[-1]) == str(alone[-1])


def test_a_page_that_fails_costs_one_line_and_not_the_run(
    run: Run, flat: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any) -> None:
        raise ValueError("no\npixels")

    monkeypatch.setattr(report, "make_sheets", broken)
    told: list[str] = []
    assert report_at_end(run, told.append) is False
    assert run.directory is not None
    assert told == [f"report.html is not written: no pixels; main.py report {run.directory.path} tries again"]
    assert report_at_end(replace(run, directory=None), told.append) is False and len(told) == 1


def test_the_command_writes_the_page_where_it_is_told(
    run: Run, tmp_path: Path, flat: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.directory is not None
    out = tmp_path / "it.html"
    try:
        assert main.main(["report", str(run.directory.path), "--out", str(out)]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote {out} (0.")
        assert main.main(["report", str(run.directory.path), "--out", str(tmp_path)]) == 2
        assert main.main(["report", str(tmp_path)]) == 2
    finally:
        torch.use_deterministic_algorithms(True)
    assert [line[:6] for line in capsys.readouterr().err.splitlines()] == ["error:", "error:"]
