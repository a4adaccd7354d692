"""How ranks find each other and what is said when one is gone."""

import os
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from utils import process, process_group
from utils.process_group import MissingRanks, lost_another, restart_is_safe


def test_ranks_that_do_not_come_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    store = dist.HashStore()
    store.set("here/2", "1")
    with pytest.raises(MissingRanks, match="of 4 ranks no sign of 1, 3 in 0 s") as error:
        process_group._wait_for_all(store, 0, timedelta(milliseconds=50))
    assert lost_another(error.value) == str(error.value)


def test_an_error_of_a_collective_is_one_line_and_others_stay_what_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    gone = RuntimeError("[../third_party/gloo/transport/tcp/pair.cc:537] Read error [127.0.0.1]:1:\n Connection reset")
    assert lost_another(gone) is None  # of one process it means something else
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert lost_another(gone) == "another rank has left or does not answer (" + " ".join(str(gone).split())[:120] + ")"
    assert lost_another(dist.DistNetworkError("timed out")) is not None
    assert lost_another(RuntimeError("shapes do not fit")) is None


def test_restarts_of_several_launchers_ask_for_torch_s_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    assert restart_is_safe()
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    assert restart_is_safe()  # one launcher
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert not restart_is_safe()
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")  # what the variable leads to
    assert restart_is_safe()


def test_each_attempt_of_one_launcher_has_keys_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process_group._attempt() == "emblem/0"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert process_group._attempt() == "emblem/2"
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    assert process_group._attempt() == "emblem/all"


def test_a_launch_without_a_name_is_known_by_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    assert process.launch_id() == ""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "mine")
    assert process.launch_id() == "mine"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    named = process.launch_id()
    assert f":{os.getppid()}" in named
    assert process.launch_id() == named


def test_an_error_of_the_user_is_remembered_for_the_restarts_of_this_launch_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a/b")
    process.remember_user_error()
    assert list(tmp_path.iterdir()) == []  # nobody restarts it
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "1")
    process.remember_user_error()
    assert not process.had_user_error()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert process.had_user_error()
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    assert not process.had_user_error()
