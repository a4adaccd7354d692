"""`main.py export`: a run's encoder or clusters in a format that others read, checked by loading it again."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from data.workshop import workshop
from evaluation.export_check import TOLERANCE, check
from evaluation.export_contents import BATCHES, Contents, to_cpu
from evaluation.export_graph import write_onnx, write_torch_export
from evaluation.export_weights import write_safetensors, write_timm
from evaluation.load_run import LoadedRun, load_run
from evaluation.model_card import CARD, model_card
from training.run_dir import find_run
from utils.errors import UserError, did_you_mean
from utils.files import write_text

# each writes its files into a folder and returns the Python that, run there, makes `outputs` of `pixels`
FORMATS: dict[str, Callable[[Contents, Path], str]] = {
    "safetensors": write_safetensors,
    "timm": write_timm,
    "torch-export": write_torch_export,
    "onnx": write_onnx,
}
GRAPHS = ("torch-export", "onnx")  # hold what the network does, clusters too; the others weights alone


def export_run(path: Path, to: str, what: str | None, out: Path | None) -> None:
    """Write the folder `out` (by default RUN/export/FORMAT-WHAT) with the export and MODEL_CARD.md.

    One process does it: under a launcher rank 0, while the others leave. Nothing is kept of an export that a fresh
    process cannot load or whose outputs differ by more than 1e-4 from those of the run.

    Raises:
        UserError: no run there, an unknown or unfit format, no clusters, a folder that is taken, or a failed check.
    """
    if os.environ.get("RANK", "0") != "0":
        return
    if to not in FORMATS:
        raise UserError("--to", f"{to!r} is no format" + did_you_mean(to, FORMATS))
    if what == "clusters" and to not in GRAPHS:
        raise UserError(f"--to {to}", "it holds the encoder's weights alone", f"use {' or '.join(GRAPHS)} for clusters")
    find_run(path)
    _check_free(out)
    contents = contents_of(load_run(path), what, to)
    target = out or path / "export" / f"{to}-{contents.what}"
    _check_free(target)
    held = "encoder" if contents.state is None else "encoder and clusters"
    print(f"exporting {held} of {path} as {to}, to be loaded again in a new process", flush=True)
    try:
        with workshop(target) as temporary:
            made = temporary / "made"
            made.mkdir()
            told = write_checked(contents, to, path, made)
            os.rename(made, target)  # also where an empty folder is
    except OSError as error:
        raise UserError(str(target), f"cannot be written ({error.strerror or error})") from None
    print("\n".join(told))
    print(f"wrote {target}: {', '.join(sorted(file.name for file in target.iterdir()))}; begin with {CARD}", flush=True)


def contents_of(loaded: LoadedRun, what: str | None, to: str) -> Contents:
    """What is exported of a run, brought to the CPU in eval mode: its encoder, or its clusters too.

    what: "encoder" or "clusters"; None: the clusters, where the run has some and the format can hold them.
    """
    run = loaded.run
    run.method.cpu().eval()
    has_clusters = run.state is not None and run.state.labels is not None
    if what == "clusters" or (what is None and to in GRAPHS and has_clusters):
        return Contents(run, to_cpu(loaded.clusters()))
    return Contents(run, None)


def write_checked(contents: Contents, to: str, path: Path, folder: Path) -> list[str]:
    """Write the files and the card into `folder`, checked in between; returns what to tell of the check."""
    pixels, expected = contents.pixels(), contents.expected()
    code = FORMATS[to](contents, folder)
    largest = check(folder, code, pixels, expected)
    of = "real images" if contents.images[1] else "images of random pixels (the run's own are not here)"
    sizes = ", ".join(map(str, BATCHES))
    differences = ", ".join(f"{name} {value:.2g}" for name, value in largest.items())
    told = [f"largest difference from the run on {of}, batches of {sizes}: {differences} ({TOLERANCE:g} is allowed)"]
    labels = contents.run.state.labels if contents.run.state is not None else None
    if contents.state is not None and contents.images[1] and labels is not None:
        clusters = torch.cat([batch["cluster"] for batch in expected])
        same = int((clusters == labels.cpu()[contents.rows]).sum())
        told.append(f"{same} of these {len(clusters)} images are in the cluster that training left them in")
    write_text(folder / CARD, model_card(contents, to, path, code, told))
    return told


def _check_free(target: Path | None) -> None:
    """Raise UserError now for a folder that could not be made when all is computed."""
    if target is None:
        return
    if target.suffix in (".onnx", ".pt2", ".safetensors"):
        raise UserError(str(target), "an export is a folder, with its model card", "name a folder")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(str(target), "is there already", "remove it, or name another folder by --out")
