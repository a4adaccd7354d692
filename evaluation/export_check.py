"""An export loaded in a fresh process, as a user would, and held against what the run's own code gave."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evaluation.export_contents import Outputs
from utils import compat
from utils.errors import UserError

TOLERANCE = 1e-4
# what the fresh process runs: the code of the model card with `pixels` given; nothing of this repository is on its path
# (torchvision beside a CPU build of torch is prepared as anywhere: utils/compat.py)
PROGRAM = """
import runpy, sys
import numpy as np
compat, card, given, made = sys.argv[1:]
code = open(card, encoding="utf-8").read()
if "import timm" in code or "torchvision" in code:
    runpy.run_path(compat)["prepare_torchvision"]()
found = {}
with np.load(given) as batches:
    for name in batches.files:
        pixels = batches[name]
        if "import torch" in code:
            import torch
            pixels = torch.from_numpy(pixels)
        told = {"pixels": pixels}
        exec(code, told)
        for output, values in told["outputs"].items():
            found[f"{name} {output}"] = np.asarray(values)
np.savez(made, **found)
"""


def check(folder: Path, code: str, pixels: Sequence[Tensor], expected: Sequence[Outputs]) -> dict[str, float]:
    """The largest difference of each output over all batches, after a reload of the files in `folder` by `code`.

    Of values above 1 the difference is relative to the largest. A cluster may be another where the run's own
    probabilities of the two are as close as that.

    Raises:
        UserError: it cannot be loaded, or differs by more than `TOLERANCE`.
    """
    found = reload(folder, code, pixels)
    largest: dict[str, float] = {}
    for given, wanted in zip(found, expected, strict=True):
        for name, values in wanted.items():
            got = given[name]
            if name == "cluster":
                best = wanted["probability"]
                difference = float((best.amax(1) - best.gather(1, got.long()[:, None])[:, 0]).max())
            else:
                scale = max(1.0, float(values.abs().max()))
                difference = float((got.double() - values.double()).abs().max()) / scale
            largest[name] = max(largest.get(name, 0.0), difference if difference == difference else float("inf"))
    worst = max(largest, key=lambda name: largest[name])
    if largest[worst] > TOLERANCE:
        problem = f"its {worst} differs from that of the run by {largest[worst]:.2g}, more than {TOLERANCE:g}"
        raise UserError("export", problem, "nothing was kept")
    return largest


def reload(folder: Path, code: str, pixels: Sequence[Tensor]) -> list[Outputs]:
    """What `code`, run in `folder` by a new Python, gives for each batch. Raises UserError where it fails."""
    with tempfile.TemporaryDirectory() as work:
        card, given, made = (Path(work) / name for name in ("card.py", "given.npz", "made.npz"))
        card.write_text(code, encoding="utf-8")
        batches = {str(number): batch.numpy() for number, batch in enumerate(pixels)}
        np.savez(given, **batches)  # type: ignore[arg-type]
        words = [sys.executable, "-c", PROGRAM, *map(str, (compat.__file__, card, given, made))]
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise UserError("export", f"it could not be loaded again: {reason}", "nothing was kept")
        with np.load(made) as found:
            return [
                {name.partition(" ")[2]: torch.from_numpy(found[name]) for name in found.files
                 if name.partition(" ")[0] == number}
                for number in batches
            ]  # fmt: skip
