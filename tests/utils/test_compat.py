"""torchvision imports whatever build of torch is installed."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.ranks import context
from utils import compat


def import_it() -> None:
    warnings.simplefilter("error")
    assert "torchvision" not in sys.modules
    assert compat.prepare_torchvision() != "missing"
    import torchvision  # noqa: F401


def test_torchvision_imports_without_a_warning_once_prepared() -> None:
    fresh: Any = context().Process(target=import_it)  # forked where torch is imported
    fresh.start()
    fresh.join(120)
    assert fresh.exitcode == 0  # it prints what failed


@pytest.mark.skipif(torch.version.cuda is not None, reason="a CUDA build loads the compiled operators")
def test_a_cpu_build_of_torch_gets_both_operators_declared() -> None:
    if compat.prepare_torchvision() == "schemas":
        assert hasattr(torch.ops.torchvision, "nms")
        assert hasattr(torch.ops.torchvision, "qnms")


def test_operators_that_load_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat, "_loads", lambda library: True)
    assert compat.prepare_torchvision() == "compiled"


def test_a_library_that_does_not_load_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "_C.so").write_bytes(b"not a library")
    assert compat._loads(tmp_path / "_C.so") is False


def test_a_missing_torchvision_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat.importlib.util, "find_spec", lambda name: None)
    assert compat.prepare_torchvision() == "missing"
