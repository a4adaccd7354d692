"""torchvision imports whatever build of torch is installed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from utils import compat

ROOT = Path(__file__).parents[2]


def test_torchvision_imports_without_a_warning_once_prepared() -> None:
    code = "from utils.compat import prepare_torchvision as p; p(); import torchvision; assert p() != 'missing'"
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


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
