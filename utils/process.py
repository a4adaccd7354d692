"""How this process is bound to its launcher and to memory; called first thing, before torch starts threads."""

import ctypes
import os
import signal
import sys

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
