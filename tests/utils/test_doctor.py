"""The doctor tells facts and never fails."""

import json
import subprocess
from pathlib import Path

import pytest
import torch

from utils import distributed, doctor


def test_each_line_is_one_named_fact() -> None:
    lines = doctor.doctor_lines()
    names = [line.split("  ")[0].strip() for line in lines]
    assert len(set(names)) == len(names)
    assert {"python", "torch", "torchvision ops", "device", "bf16", "backends", "cpus", "free disk", "wandb"} <= set(
        names
    )
    assert all("\n" not in line for line in lines)


def test_values_stand_in_one_column() -> None:
    width = max(len(name) for name in (*doctor.REQUIRED, *doctor.OPTIONAL, "torchvision ops")) + 2
    assert all(line[width - 1] == " " != line[width] for line in doctor.doctor_lines())


def test_a_missing_package_is_told_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version", lambda package: None)
    lines = "\n".join(doctor.doctor_lines())
    assert "MISSING: make .venv/.installed" in lines
    assert "not installed (optional: log.wandb)" in lines


def test_the_version_of_an_unknown_package_is_none() -> None:
    assert doctor.version("torch") == torch.__version__
    assert doctor.version("no-such-package-at-all") is None


def test_the_environment_is_plain_json() -> None:
    environment = doctor.environment()
    assert json.loads(json.dumps(environment)) == environment
    assert environment["packages"]["torch"] == torch.__version__


def test_threads_are_advised_only_where_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor.thread_advice() == ""
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert "OMP_NUM_THREADS=1" in doctor.thread_advice()


@pytest.mark.parametrize(
    ("flags", "state"),
    [
        ({"avx2", "avx512_bf16"}, "yes"),
        ({"bf16", "asimd"}, "yes"),
        ({"avx2"}, "slow here: use fp32"),
        (set(), "slow here: use fp32"),
    ],
)
def test_bf16_follows_the_instructions_of_the_cpu(monkeypatch: pytest.MonkeyPatch, flags: set[str], state: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(doctor, "cpu_flags", lambda: flags)
    assert doctor.bf16_state() == state


def test_cpu_flags_are_read_as_linux_writes_them(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2\nprocessor : 1\nflags\t\t: fpu avx2\n")
    assert doctor.cpu_flags(tmp_path / "cpuinfo") == {"fpu", "avx2"}
    assert doctor.cpu_flags(tmp_path / "nowhere") == set()


def test_the_commit_says_whether_files_are_changed(tmp_path: Path) -> None:
    assert doctor.git_commit(tmp_path) is None
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "a").write_text("1")
    for words in (["init", "-q"], ["add", "a"], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *words], check=True)
    clean = doctor.git_commit(tmp_path)
    (tmp_path / "a").write_text("2")
    assert clean is not None and len(clean) == 40
    assert doctor.git_commit(tmp_path) == f"{clean}-dirty"


def test_gloo_is_among_the_backends() -> None:
    assert "gloo" in distributed.available_backends()
