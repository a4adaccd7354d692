"""Words of a command line, in any order."""

from pathlib import Path

import pytest

from main import COMMANDS
from utils.command_line import parse
from utils.errors import UserError


@pytest.mark.parametrize(
    "line",
    [
        "runs/A photos more --out x.csv --near cat.jpg",
        "runs/A --out x.csv photos more --near cat.jpg",
        "runs/A --out x.csv --near cat.jpg photos more",
        "--out x.csv runs/A photos --near cat.jpg more",
        "--near cat.jpg --out x.csv runs/A photos more",
    ],
)
def test_images_stand_before_between_and_behind_options(line: str) -> None:
    command, found = parse(["predict", *line.split()], COMMANDS)
    assert command == "predict"
    assert (found.run, found.images) == (Path("runs/A"), ["photos", "more"])
    assert (found.out, found.near, found.folders) == (Path("x.csv"), Path("cat.jpg"), None)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate runs/A --data cifar10 data.split=test", ["runs/A", "data.split=test"]),
        ("views a.yml --out x.png optim.weight_decay=-1", ["a.yml", "optim.weight_decay=-1"]),
        ("a.yml run.seed=1", ["a.yml", "run.seed=1"]),
        ("predict runs/A --out x.csv -- -odd.jpg", ["-odd.jpg"]),
    ],
)
def test_words_behind_an_option_count_too(line: str, words: list[str]) -> None:
    command, found = parse(line.split(), COMMANDS)
    assert (found.images if command == "predict" else found.words) == words


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("predict", "the following arguments are required: RUN; see main.py predict --help"),
        ("resume", "the following arguments are required: RUN; see main.py resume --help"),
        ("sweep-k runs/A", "the following arguments are required: --k; see main.py sweep-k --help"),
        ("predict runs/A photos --uot x.csv", "unrecognized arguments: --uot x.csv; see main.py predict --help"),
        ("list digits", "unrecognized arguments: digits; see main.py list --help"),
        ("", "the following arguments are required: CONFIG.yml | COMMAND; see main.py --help"),
    ],
)
def test_what_is_missing_or_unknown_is_said_with_where_to_read(line: str, problem: str) -> None:
    with pytest.raises(UserError) as refused:
        parse(line.split(), COMMANDS)
    assert str(refused.value) == f"command line: {problem}"
