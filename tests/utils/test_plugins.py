"""A user's file of methods, encoders and data sets: run once, merged under names that are free, errors in one line."""

import textwrap
from pathlib import Path

import pytest
import torch

import utils.plugins
from data.batch import Batch
from data.sources import SOURCES
from data.sources.base import DataConfig
from models import METHODS
from models.parts.centers import EStepConfig
from models.parts.encoders import ENCODERS, EncoderConfig
from utils.clock import Clock
from utils.draws import Draws
from utils.errors import UserError
from utils.plugins import load_plugins

KNOWN = {"METHODS": METHODS, "ENCODERS": ENCODERS, "SOURCES": SOURCES}


def plugin(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_the_example_gives_a_method_an_encoder_and_a_data_set_that_work_together(tmp_path: Path) -> None:
    example = textwrap.dedent(str(utils.plugins.__doc__).split("\n\n", 2)[2])
    found = load_plugins([plugin(tmp_path, example)], KNOWN)
    source = found["SOURCES"]["negative"](DataConfig())
    encoder = found["ENCODERS"]["shallow"](EncoderConfig(name="shallow"), source.image_shape)
    build = found["METHODS"]["siamese"]
    method = build(encoder, 24, build.Config(width=7), EStepConfig(), 3)
    images = source.read(torch.arange(5)) / 255
    draws = Draws(seed=0, step=0, start=0, stop=5, total=5)
    batch = Batch([images, images.flip(3)], torch.arange(5), torch.arange(5), draws)
    method(batch, None, Clock(0, 1, 1, None))["loss"].backward()
    assert all(p.grad is not None for part in method.parameter_groups().values() for p in part)
    assert method.eval().embed(images).shape == (5, 7)
    assert float(images[:, :, 0, 0].min()) == 1  # the digits' corners are black


def test_a_file_is_run_once_and_gives_the_same_however_often_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = plugin(tmp_path, "print('run')\nENCODERS = {'mine': print}")
    monkeypatch.chdir(tmp_path)
    first = load_plugins([path, Path("mine.py")], KNOWN)  # relative to the working directory
    again = load_plugins([path], {**KNOWN, "ENCODERS": {**ENCODERS, **first["ENCODERS"]}})
    assert first == again == {"METHODS": {}, "ENCODERS": {"mine": print}, "SOURCES": {}}
    assert capsys.readouterr().out == "run\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "mine.py: has none of the tables METHODS, ENCODERS and SOURCES; name its parts in one"),
        ("\n\nimport nothing_such", "mine.py:3: ModuleNotFoundError: No module named 'nothing_such'"),
        ("def f():\n    return 1 / 0\n\nf()", "mine.py:2: ZeroDivisionError: division by zero"),
        ("x = 1\ndef f(:\n", "mine.py:2: SyntaxError: invalid syntax"),
        ("import sys\nsys.exit(3)", "mine.py:2: SystemExit: 3"),
        ("ENCODERS = [print]", "mine.py: ENCODERS is not a dict of names; for instance"),
        ("SOURCES = {'mine': 3}", "mine.py: SOURCES['mine']: is not a class or function"),
        ("METHODS = {'mine': print}", "mine.py: METHODS['mine']: is not a class with a Config"),
        (
            "from models.method import Method\nclass Mine(Method):\n    def embed(self, images): ...\n"
            "METHODS = {'mine': Mine}",
            "mine.py: METHODS['mine']: lacks loss, parameter_groups",
        ),
        ("ENCODERS = {'resnet18': print}", "mine.py: ENCODERS names 'resnet18', which exists already"),
    ],
)
def test_a_file_that_cannot_serve_is_told_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_plugins([plugin(tmp_path, text)], KNOWN)
    assert f"{tmp_path}/{message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_files_cannot_name_the_same(tmp_path: Path) -> None:
    files = [plugin(tmp_path, "def f(): ...\nSOURCES = {'mine': f}", name) for name in ("a.py", "b.py")]
    with pytest.raises(UserError, match=r"b.py: SOURCES names 'mine', which exists already; choose another name"):
        load_plugins(files, KNOWN)


def test_a_missing_file_is_named_with_the_key(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run.plugins: .*mine.py does not exist"):
        load_plugins([tmp_path / "mine.py"], KNOWN)
