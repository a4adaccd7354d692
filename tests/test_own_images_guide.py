"""The guide docs/own-images.md: every command in it runs as it stands there, in its order, on made pictures."""

import csv
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import main
from tests.runs import ROOT

PAGE = ROOT / "docs" / "own-images.md"
BLOCKS = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SHORT = ["optim.epochs=2", "optim.warmup_epochs=1", "encoder.name=tiny", "data.image_size=32"]
# what a config's command is run with beside its own words: less training of a smaller network; no download
ADDED = {
    "config/own_images.yml": [*SHORT, "method.warmup_epochs=1"],
    "config/own_images_pretrained.yml": [*SHORT, "encoder.pretrained=false"],
}
N_IMAGES = 84


def paint(path: Path, kind: int, seed: int) -> None:
    """A picture of one of three kinds: stripes, a disc or a slope, in colours of its own."""
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[0:60, 0:80] + draw.uniform(-9, 9, (2, 1, 1))
    shade = [np.sin(x / 3), np.hypot(x - 40, y - 30) < 20, x + y > 70][kind].astype(float)
    low, high = draw.uniform(0, 90, 3), draw.uniform(120, 255, 3)
    pixels = low + (high - low) * shade[..., None] + draw.normal(0, 8, (60, 80, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: the configs, `photos` with a damaged file and one saved twice, and `more`."""
    (tmp_path / "config").symlink_to(ROOT / "config")
    for number in range(N_IMAGES - 1):
        paint(tmp_path / "photos" / f"day{number % 2}" / f"{number:03d}.jpg", number % 3, number)
    twice = Image.open(tmp_path / "photos" / "day0" / "006.jpg")
    twice.save(tmp_path / "photos" / "day1" / "again.jpg", quality=80)
    (tmp_path / "photos" / "broken.jpg").write_bytes(b"no image")
    for number in range(3):
        paint(tmp_path / "more" / f"{number}.png", number, 1000 + number)
    paint(tmp_path / "more" / "new.jpg", 1, 1003)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_command(line: str) -> None:
    """`python main.py WORDS` of the page, in this process."""
    python, program, *words = shlex.split(line)
    assert (python, program) == ("python", "main.py")
    config = next((word for word in words if word in ADDED), None)
    if config and words[0] != "views":
        words += ADDED[config]
    try:
        assert main.main(words) == 0, line
    finally:
        torch.use_deterministic_algorithms(True)


def read(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.read_text().splitlines()))


def test_every_command_and_every_program_of_the_guide_runs_in_its_order(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, said = PAGE.read_text(), []
    for kind, block in BLOCKS.findall(page):
        if kind == "python":
            exec(compile(block, str(PAGE), "exec"), {"__name__": "guide"})
        else:
            assert kind == "bash"
            for line in block.splitlines():
                run_command(line)
        said.append(capsys.readouterr().out)
    for name in re.findall(r"^\| `(\S+)` \|", page, re.MULTILINE):  # the table of files
        assert (desk / "runs" / "photos" / name).stat().st_size > 0
    assert len(read(desk / "runs" / "photos" / "assignments.csv")) == N_IMAGES
    assert read(desk / "runs" / "photos" / "skipped.csv")[0]["path"] == "broken.jpg"
    assert {row["path"] for row in read(desk / "clusters.csv")} == {"0.png", "1.png", "2.png", "new.jpg"}
    assert len(list((desk / "sorted").glob("*/*"))) == 4
    for name in ("views.png", "compare.png", "like_new.near.png", "runs/photos/sweep_k.png", "photos-onnx"):
        assert (desk / name).exists(), name
    assert re.search(r"agreement of two seeds: -?\d\.\d\d\n", "".join(said))
    duplicates = said[-1].splitlines()
    assert len(duplicates) == 20 and "006.jpg" in "".join(duplicates[:2]) and "again.jpg" in duplicates[0]


def test_too_few_images_are_refused_in_the_words_of_the_guide(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(11):
        paint(desk / "few" / f"{number}.png", number % 3, number)
    assert main.main(["config/own_images.yml", "data.root=few", "estep.n_clusters=4"]) == 2
    refused = capsys.readouterr().err.strip().split(": ", 2)[2]
    assert f"`{refused}`" in PAGE.read_text()
