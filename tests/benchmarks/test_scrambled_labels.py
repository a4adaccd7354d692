"""The labels of the authors' code on several ranks, as the plugin gives them."""

import importlib

import pytest
import torch

import models.propos
from models.propos import prototype_scattering


def test_a_quarter_of_the_rows_has_its_own_label(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.propos, "prototype_scattering", prototype_scattering)  # what the import replaces, later
    plugin = importlib.import_module("benchmarks.scrambled_labels")
    views, rows = plugin.places(16)
    assert sorted(zip(views.tolist(), rows.tolist(), strict=True)) == [(v, r) for v in range(2) for r in range(16)]
    own = (rows.view(2, 16) == torch.arange(16)).sum(1)
    assert own.tolist() == [4, 4]
    assert rows[:8].tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and views[:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    online, target = ([torch.randn(16, 5) for _ in range(2)] for _ in range(2))
    labels = torch.eye(3)[torch.arange(16) % 3]
    right, wrong = (loss(online, target, labels, temperature=0.5) for loss in (prototype_scattering, plugin.scrambled))
    assert not torch.allclose(right, wrong)
