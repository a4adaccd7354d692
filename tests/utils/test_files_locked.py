"""One holder of a lock file at a time."""

import threading
from pathlib import Path

import pytest

from utils.files import locked


def test_a_second_holder_is_told_once_and_waits_for_the_first(tmp_path: Path) -> None:
    order: list[str] = []
    told = threading.Event()

    def second() -> None:
        with locked(tmp_path / "lock", lambda: (order.append("waits"), told.set())[0]):
            order.append("second")

    with locked(tmp_path / "lock", lambda: order.append("wrong")):
        thread = threading.Thread(target=second)
        thread.start()
        assert told.wait(60)
        order.append("first ends")
    thread.join(60)
    assert order == ["waits", "first ends", "second"]


def test_an_exception_lets_go_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(KeyError), locked(tmp_path / "lock"):
        raise KeyError
    with locked(tmp_path / "lock", lambda: pytest.fail("still locked")):
        pass


def test_a_lock_where_no_file_can_be_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="Not a directory"), locked(tmp_path / "file" / "lock"):
        pass
