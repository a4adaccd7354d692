"""Configs that ship are valid on any sensible number of ranks; the reference of keys is fresh; caveats are told."""

from pathlib import Path

import pytest

from tests.runs import tiny_settings
from training.settings import caveats, check, load_settings
from utils.config import compose
from utils.errors import UserError

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted((ROOT / "config").glob("*.yml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_configs_are_valid_on_one_two_and_four_ranks(path: Path) -> None:
    settings = load_settings(compose([path]), 1)
    check(settings, 2)
    check(settings, 4)
    assert settings.method.name in path.stem or path.stem.startswith("own_images")


def test_resolved_settings_load_to_equal_settings(tmp_path: Path) -> None:
    settings = tiny_settings(optim__weight_decay=1e-7, run__folder=str(tmp_path / "yes"))
    (tmp_path / "config.yml").write_text(settings.to_yaml())
    assert load_settings(compose([tmp_path / "config.yml"]), 1) == settings


@pytest.mark.parametrize(
    ("world", "changes", "message"),
    [
        (4, {"optim__global_batch": 250}, "optim.global_batch: 250 is not divisible by 4 ranks; nearest: 248 or 252"),
        (3, {"optim__global_batch": 63, "method__bn_groups": 2}, "method.bn_groups: 2 groups on 3 ranks"),
        (2, {"method__bn_groups": 32, "optim__accumulation": 2}, "a group needs two rows or more"),
        (4, {"optim__global_batch": 12, "optim__accumulation": 6}, "optim.accumulation: micro-batches of 2 rows"),
    ],
)
def test_impossible_combinations_are_refused(world: int, changes: dict[str, int], message: str) -> None:
    before = {key: value for key, value in changes.items() if key.startswith("method")} | {"optim__global_batch": 64}
    settings = tiny_settings(**before)
    optim = settings.optim.model_copy(update={k.removeprefix("optim__"): v for k, v in changes.items() if "optim" in k})
    method = settings.method
    with pytest.raises(UserError) as error:
        check(type(settings)(**{**vars(settings), "optim": optim, "method": method}), world)
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["wandb", "tensorboard"])
def test_missing_mirror_is_named_with_its_remedy(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.settings.installed", lambda package: False)
    with pytest.raises(UserError, match=f"log.{name}: the package {name} is not installed; pip install {name}"):
        tiny_settings(**{f"log__{name}": True})


def test_accumulation_is_told_where_it_changes_the_loss() -> None:
    assert caveats(tiny_settings("byol", optim__accumulation=2)) == []
    (told,) = caveats(tiny_settings("propos", optim__accumulation=2))
    assert told.startswith("optim.accumulation=2: the loss sees 32 rows at a time")
