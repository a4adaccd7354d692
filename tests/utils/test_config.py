"""From files and words to frozen sections; every mistake is one line with its place."""

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from utils.config import Composed, Section, compose, diff_keys, document, dump, to_values, validate
from utils.errors import UserError


class Inner(Section):
    """One view."""

    blur: float = Field(0.5, ge=0, le=1, description="probability of blur")


class Optim(Section):
    """How to go
    down."""

    name: Literal["sgd", "lars"] = Field("sgd", description="optimiser")
    learning_rate: float = Field(0.05, gt=0, description="base rate")
    weight_decay: float = Field(5e-4, ge=0, description="decay")
    epochs: int = Field(100, ge=1, description="passes | rounds")
    fused: bool = Field(False, description="fused")
    folder: Path = Field(Path("runs"), description="folder")
    label: str | None = Field(None, description="label")
    scale: tuple[float, float] | None = Field((0.2, 1.0), description="range")
    inner: Inner | None = Field(None, description="second view")
    rounds: int | tuple[int, ...] = Field(3, description="rounds")

    @model_validator(mode="after")
    def _check(self) -> "Optim":
        if self.epochs == 13:
            raise ValueError("13 epochs bring no luck")
        return self


class Sgd(Section):
    """A method."""

    name: Literal["byol"] = "byol"
    momentum: float = Field(description="no default")


class Other(Section):
    """Another method."""

    name: Literal["propos"] = "propos"
    temperature: float = 0.5


TABLE = {"byol": Sgd, "propos": Other}


def write(folder: Path, **files: str) -> list[Path]:
    """One YAML file an argument; returns their paths in order."""
    paths = []
    for name, text in files.items():
        paths.append(folder / f"{name}.yml")
        paths[-1].write_text(text)
    return paths


def problem_of(tmp_path: Path, text: str, *words: str, sections: Any = None) -> str:
    """The one-line message about a file with this text and these command-line words, without the folder."""
    with pytest.raises(UserError) as caught:
        validate(compose(write(tmp_path, a=text), words), sections or {"optim": Optim})
    message = str(caught.value)
    assert "\n" not in message
    return message.removeprefix(f"{tmp_path}/")


def test_later_files_and_words_win_and_bases_come_first(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", deep="optim: {epochs: 1, label: deep, fused: true}")
    write(tmp_path / "base", low="base: deep.yml\noptim: {epochs: 2, name: lars}")
    write(tmp_path / "base", side="optim: {name: sgd}")
    files = write(
        tmp_path, first="base: [base/low.yml, base/side.yml]\noptim: {epochs: 3}", more="optim:\n  epochs: 4\n"
    )
    composed = compose(files, ["optim.epochs=5"])
    assert composed.values == {"optim": {"epochs": 5, "label": "deep", "fused": True, "name": "sgd"}}
    assert composed.name == "first"


def test_each_value_remembers_who_said_it(tmp_path: Path) -> None:
    files = write(tmp_path, a="optim:\n  epochs: 3\n  name: sgd\n", b="optim:\n  name: lars\n")
    origin = compose(files, ["optim.scale=[0.1, 1]", "optim.inner={blur: 0}"]).origin
    assert origin == {
        "optim": f"{files[1]}:1",
        "optim.epochs": f"{files[0]}:2",
        "optim.name": f"{files[1]}:2",
        "optim.scale": "command line",
        "optim.inner": "command line",
        "optim.inner.blur": "command line",
    }


def test_a_section_without_keys_takes_nothing_away(tmp_path: Path) -> None:
    files = write(tmp_path, a="optim: {epochs: 3}", b="optim:\n  # epochs: 4\n")
    assert compose(files).values == {"optim": {"epochs": 3}}


def test_null_takes_a_nested_section_away(tmp_path: Path) -> None:
    files = write(tmp_path, a="optim: {inner: {blur: 1}}", b="optim: {inner: null}")
    assert validate(compose(files), {"optim": Optim})["optim"] == Optim(inner=None)


def test_defaults_fill_what_nobody_said() -> None:
    assert validate(Composed({}, {}, "x"), {"optim": Optim}) == {"optim": Optim()}


def test_an_integer_is_a_number_and_a_list_is_a_range(tmp_path: Path) -> None:
    text = "optim: {learning_rate: 1, scale: [0, 1], folder: /data, rounds: [1, 2], weight_decay: 5e-4}"
    optim = validate(compose(write(tmp_path, a=text)), {"optim": Optim})["optim"]
    assert optim == Optim(learning_rate=1.0, scale=(0.0, 1.0), folder=Path("/data"), rounds=(1, 2), weight_decay=0.0005)


def test_sections_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Optim().epochs = 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim:\n  learnig_rate: 1\n", "a.yml:2: optim.learnig_rate: no such key (did you mean learning_rate?)"),
        ("optim:\n  weight_decay: small\n", "a.yml:2: optim.weight_decay: 'small' is not a number (default 0.0005)"),
        ("optim:\n  epochs: '12'\n", "a.yml:2: optim.epochs: '12' is not an integer (default 100)"),
        ("optim:\n  epochs: true\n", "a.yml:2: optim.epochs: true is not an integer (default 100)"),
        ("optim:\n  epochs: 1.5\n", "a.yml:2: optim.epochs: 1.5 is not an integer (default 100)"),
        ("optim:\n  epochs: 0\n", "a.yml:2: optim.epochs: 0 is not at least 1 (default 100)"),
        ("optim:\n  epochs: null\n", "a.yml:2: optim.epochs: null is not an integer (default 100)"),
        ("optim:\n  fused: yes\n", "a.yml:2: optim.fused: 'yes' is not true or false (default false)"),
        ("optim:\n  fused: 1\n", "a.yml:2: optim.fused: 1 is not true or false (default false)"),
        ("optim:\n  label: 3\n", "a.yml:2: optim.label: 3 is not text or null (default null)"),
        ("optim:\n  folder: 3\n", "a.yml:2: optim.folder: 3 is not a path (default runs)"),
        ("optim:\n  name: sdg\n", "a.yml:2: optim.name: 'sdg' is unknown (did you mean sgd?)"),
        ("optim:\n  name: 3\n", "a.yml:2: optim.name: 3 is not one of sgd, lars (default sgd)"),
        (
            "optim:\n  scale: [1]\n",
            "a.yml:2: optim.scale: [1] is not a list of 2 (a number, a number) or null (default [0.2, 1.0])",
        ),
        (
            "optim:\n  scale: [1, x]\n",
            "a.yml:2: optim.scale: [1, x] is not a list of 2 (a number, a number) or null (default [0.2, 1.0])",
        ),
        ("optim:\n  learning_rate: .nan\n", "a.yml:2: optim.learning_rate: nan: input should be a finite number"),
        ("optim:\n  learning_rate: -1\n", "a.yml:2: optim.learning_rate: -1 is not above 0 (default 0.05)"),
        ("optim:\n  rounds: x\n", "a.yml:2: optim.rounds: 'x' is not an integer or a list (an integer) (default 3)"),
        ("optim:\n  inner:\n    blur: 2\n", "a.yml:3: optim.inner.blur: 2 is not at least 0, at most 1 (default 0.5)"),
        ("optim:\n  inner:\n    blr: 1\n", "a.yml:3: optim.inner.blr: no such key (did you mean blur?)"),
        ("optim:\n  inner: 3\n", "a.yml:2: optim.inner: 3 is not keys of its own or null (default null)"),
        ("optim:\n  epochs: 13\n", "a.yml:1: optim: 13 epochs bring no luck"),
        ("\noptmi:\n  epochs: 3\n", "a.yml:2: optmi: no such section (did you mean optim?)"),
        ("optim: 3\n", "a.yml:1: optim: 3 stands where keys are expected"),
        ("optim:\n  epochs: x\n  epohcs: 3\n", "a.yml:3: optim.epohcs: no such key (did you mean epochs?)"),
    ],
)
def test_a_wrong_value_costs_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert problem_of(tmp_path, text).startswith(message)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("optim.learnig_rate=1", "command line: optim.learnig_rate: no such key (did you mean learning_rate?)"),
        ("optim.epochs=x", "command line: optim.epochs: 'x' is not an integer (default 100)"),
        ("optim.inner={blur: 2}", "command line: optim.inner.blur: 2 is not at least 0, at most 1 (default 0.5)"),
        ("optmi.epochs=3", "command line: optmi: no such section (did you mean optim?)"),
        ("optim.epochs.more=3", "command line: optim.epochs: {more: 3} is not an integer (default 100)"),
        ("epochs=3", "command line: epochs=3: neither a .yml or .json file nor section.key=value"),
        ("optim.epochs", "command line: optim.epochs: neither a .yml or .json file nor section.key=value"),
        ("optim.scale=[1", "command line: optim.scale: not valid YAML: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_a_wrong_word_costs_one_line_without_a_line_number(tmp_path: Path, word: str, message: str) -> None:
    assert problem_of(tmp_path, "optim: {label: 3}\n".replace("3", "x"), word) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: b.yml\n", "b.yml: no such file (did you mean {0}/a.yml?)"),
        ("\nbase: a.yml\n", "a.yml:2: base: a.yml leads back to itself"),
        ("base: [3]\n", "a.yml:1: base: 3 is not a file name"),
    ],
)
def test_a_wrong_base_costs_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert problem_of(tmp_path, text) == message.format(tmp_path)


def test_a_circle_of_two_bases_is_found(tmp_path: Path) -> None:
    write(tmp_path, b="base: a.yml\n")
    assert problem_of(tmp_path, "base: b.yml\n") == "b.yml:1: base: a.yml leads back to itself"


def test_the_name_of_a_section_picks_its_model(tmp_path: Path) -> None:
    composed = compose(write(tmp_path, a="method: {name: propos, temperature: 1}"))
    assert validate(composed, {"method": TABLE}) == {"method": Other(temperature=1.0)}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method:\n  name: propose\n", "a.yml:2: method.name: propose is unknown (did you mean propos?)"),
        ("method: {}\n", "a.yml:1: method.name: missing (known: byol, propos)"),
        ("{}\n", "method.name: missing (known: byol, propos)"),
        ("method:\n  name: byol\n", "a.yml:1: method.momentum: missing; it takes a number"),
        ("method:\n  name: byol\n  momentum: x\n", "a.yml:3: method.momentum: 'x' is not a number"),
        (
            "method:\n  name: byol\n  temperature: 1\n",
            "a.yml:3: method.temperature: no such key (known: momentum, name)",
        ),
    ],
)
def test_a_wrong_choice_of_model_costs_one_line(tmp_path: Path, text: str, message: str) -> None:
    assert problem_of(tmp_path, text, sections={"method": TABLE}) == message


def test_an_error_of_a_room_gains_the_line_of_its_key(tmp_path: Path) -> None:
    composed = compose(write(tmp_path, a="optim:\n  epochs: 250\n"), ["optim.name=sgd"])
    error = UserError("optim.epochs", "250 is not divisible by 4 ranks", "nearest: 248 or 252")
    assert (
        composed.locate(error)
        == f"{tmp_path}/a.yml:2: optim.epochs: 250 is not divisible by 4 ranks; nearest: 248 or 252"
    )
    assert composed.locate(UserError("optim.name", "no")) == "command line: optim.name: no"
    assert composed.locate(UserError("optim.label", "a default")) == "optim.label: a default"
    assert composed.locate(UserError("photos/", "empty")) == "photos/: empty"


def test_locating_an_error_twice_changes_nothing(tmp_path: Path) -> None:
    composed = compose(write(tmp_path, a="optim:\n  epochs: 0\n"))
    with pytest.raises(UserError) as caught:
        validate(composed, {"optim": Optim})
    assert composed.locate(caught.value) == str(caught.value)


def test_the_dumped_config_loads_to_equal_sections(tmp_path: Path) -> None:
    label = Optim(
        label="1e-3", learning_rate=1e-7, inner=Inner(blur=0.1), rounds=(2, 3), folder=Path("a b"), scale=None
    )
    sections: dict[str, Section] = {"optim": label, "method": Other()}
    files = write(tmp_path, a=dump(sections))
    assert validate(compose(files), {"optim": Optim, "method": TABLE}) == sections


def test_differing_keys_are_named() -> None:
    first, second = (
        to_values({"optim": Optim(epochs=3, inner=Inner())}),
        to_values({"optim": Optim(inner=Inner(blur=0))}),
    )
    assert diff_keys(first, second) == ["optim.epochs", "optim.inner.blur"]
    assert diff_keys({"a": {"b": None}}, {"a": {}}) == ["a.b"]
    assert diff_keys(first, first) == []


def test_the_reference_page_has_every_key() -> None:
    page = document({"optim": Optim, "method": TABLE})
    assert "## optim\n\nHow to go down.\n" in page
    assert "## method (`method.name: byol`)" in page
    assert "| `optim.epochs` | an integer, at least 1 | `100` | passes \\| rounds |" in page
    assert "| `optim.scale` | a list of 2 (a number, a number) or null | `[0.2, 1.0]` | range |" in page
    assert "| `optim.inner` | keys of its own or null | `null` | second view |" in page
    assert "| `optim.inner.blur` | a number, at least 0, at most 1 | `0.5` | probability of blur |" in page
    assert "| `method.momentum` | a number | `required` | no default |" in page


def test_words_are_parsed_without_torch() -> None:
    code = "import sys, utils.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
