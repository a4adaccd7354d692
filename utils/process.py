"""How this process is bound to its launcher and to memory; called first thing, before torch starts threads."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

PR_SET_PDEATHSIG, M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = 1, -1, -3
ONE_GIB = 2**30


def die_with_launcher() -> None:
    """On Linux a rank ends when its launcher does: a killed torchrun leaves no orphans."""
    if "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == 1:  # it died before we asked
            os._exit(1)


def keep_freed_memory() -> None:
    """Let glibc keep what a step frees for the next one; else each faults its pages in anew (a sixth of its time)."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(M_MMAP_THRESHOLD, ONE_GIB)
        libc.mallopt(M_TRIM_THRESHOLD, ONE_GIB)


def launch_id() -> str:
    """What all attempts of one launch have in common: the launcher's name for it, or the launcher; "" without one.

    torchrun's default name is "none", the same for all launches.
    """
    named = os.environ.get("TORCHELASTIC_RUN_ID", "")
    if named != "none":
        return named
    with contextlib.suppress(OSError, IndexError):  # when a process was started tells it from later ones of its number
        begun = Path(f"/proc/{os.getppid()}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        return f"{socket.gethostname()}:{os.getppid()}:{begun}"
    return f"{socket.gethostname()}:{os.getppid()}"


def is_restart() -> bool:
    """Whether the launcher has started this process in place of one that failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def remember_user_error() -> None:
    """Leave a note for the launcher's next attempt: it would repeat the error."""
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        with contextlib.suppress(OSError):
            _note().touch()


def had_user_error() -> bool:
    """Whether an earlier attempt of this launch has ended with an error of the user."""
    return is_restart() and _note().exists()


def _note() -> Path:
    safe = "".join(letter if letter.isalnum() else "-" for letter in launch_id())
    return Path(tempfile.gettempdir()) / f"emblem-user-error-{safe}-{os.getppid()}"
