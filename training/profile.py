"""Where the time of a step goes: torch's profiler over some steps, as a table and as a trace."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from torch.profiler import ProfilerActivity, profile, schedule

from training.build import Run
from utils import distributed
from utils.files import write_text

SKIPPED, TAKEN = 10, 10  # steps
ROWS = 30


def profiled(run: Run) -> AbstractContextManager[profile | None]:
    """Where `run.profile` asks for it, rank 0's profiler of ten steps after ten others; its `step()` counts them.

    Then RUN/profile.txt has the operations by their own time and RUN/profile.json a trace for chrome://tracing or
    https://ui.perfetto.dev. The profiled steps are slower than others.
    """
    if not run.settings.run.profile or run.directory is None or not distributed.is_main():
        return nullcontext(None)
    path, on_gpu = run.directory.path, run.device.type == "cuda"
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    order = "self_device_time_total" if on_gpu else "self_cpu_time_total"
    plan = schedule(wait=SKIPPED - 1, warmup=1, active=TAKEN, repeat=1)
    return profile(activities=kinds, schedule=plan, on_trace_ready=lambda done: _write(done, path, order))


def _write(done: profile, path: Path, order: str) -> None:
    table = done.key_averages().table(sort_by=order, row_limit=ROWS, max_name_column_width=60)
    write_text(path / "profile.txt", f"{TAKEN} steps of rank 0\n{table}")
    done.export_chrome_trace(str(path / "profile.json"))
