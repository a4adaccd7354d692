"""A source by what is known of it: no look at its images until one is asked for."""

import json
from pathlib import Path

import pytest
import torch

from data.sources import SOURCES
from data.sources.arrays import ArraySource, Facts, Part
from data.sources.base import DataConfig, Source
from data.sources.remembered import FACTS, Remembered, facts_of
from tests.listings import fill
from utils.errors import UserError


def made(config: DataConfig) -> Source:
    """7 train and 5 test rows with classes, 11 rows without, of (3, 4, 6)."""
    facts = Facts("made", 3, (0.1, 0.2, 1 / 3), (0.4, 0.5, 0.6), ("a", "b", "c"))
    images = torch.arange(23 * 72).to(torch.uint8).view(23, 3, 4, 6).numpy()
    classes = (torch.arange(12) % 3).numpy()
    parts = {"train": Part(images[:7], classes[:7]), "test": Part(images[7:12], classes[7:])}
    return ArraySource(facts, "train+test+unlabelled", {**parts, "unlabelled": Part(images[12:], None)})


def test_facts_come_through_json_and_looks_are_those_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[DataConfig] = []
    monkeypatch.setitem(SOURCES, "made", lambda config: opened.append(config) or made(config))  # type: ignore[func-returns-value]
    source, config = made(DataConfig()), DataConfig(name="made")
    remembered = Remembered(json.loads(json.dumps(facts_of(source))), config)
    assert {name: getattr(remembered, name) for name in FACTS} == {name: getattr(source, name) for name in FACTS}
    assert (remembered.n_rows, remembered.n_extra, remembered.skipped, opened) == (12, 11, [], [])
    rows = torch.tensor([9, 3])
    assert torch.equal(remembered.read(rows), source.read(rows))
    assert remembered.path(9) == "test/00002"
    assert torch.equal(remembered.read_truth(rows), source.read_truth(rows))
    assert remembered.class_names() == ("a", "b", "c")
    assert [part.tolist() for part in remembered.knn_split()] == [list(range(7)), list(range(7, 12))]
    assert opened == [config]


def test_images_that_are_gone_or_others_are_refused_by_the_first_look(tmp_path: Path) -> None:
    fill(tmp_path / "photos", 4)
    config = DataConfig(name="folder", root=tmp_path / "photos", image_size=20, cache=tmp_path / "cache")
    facts = facts_of(SOURCES["folder"](config))
    assert Remembered(facts, config).path(0) == "0.png"
    (tmp_path / "photos" / "0.png").unlink()
    with pytest.raises(UserError, match="data.root: other images than those of the run: n_rows is 3, was 4; put back"):
        Remembered(facts, config).read(torch.tensor([0]))
    gone = Remembered(facts, config.model_copy(update={"root": tmp_path / "none"}))
    with pytest.raises(UserError, match="data.root: the images of the run are not here: .*none"):
        gone.path(0)
