"""Images named by a CSV or a plain list of paths."""

from pathlib import Path

import torch

from data.listing import Listing, printable
from data.sources.base import DataConfig
from data.sources.folder import file_reader, stamp_or_reason
from data.sources.table import read_table
from data.sources.truth import name_below, with_labels
from utils.errors import UserError


def list_file(config: DataConfig) -> Listing:
    """The files that the list `data.root` names, in its order; relative paths are relative to the list's folder.

    A path named again and one that is not there are no rows; `skipped` names them. Of the list's own classes nothing is
    read unless `data.truth` names it again.

    Raises:
        UserError: the list cannot be read, or none of its paths is a file.
    """
    file = Path(config.root)
    if file.is_dir():
        raise UserError("data.root", f"'{file}' is a folder", "give the CSV or list of paths, or use data.name=folder")
    root = file.parent
    found: dict[str, tuple[int, int]] = {}
    skipped: dict[str, str] = {}
    for path in read_table(file).paths:
        name = name_below(root, path)
        if name in found:
            skipped[name] = "named again in the list; the first counts"
        elif name not in skipped:
            outcome = stamp_or_reason(root / name, any_ending=True)
            if isinstance(outcome, str):
                skipped[printable(name)] = outcome
            else:
                found[name] = outcome
    if not found:
        first = f" (the first: {next(iter(skipped))})" if skipped else ""
        raise UserError(str(file), f"no image in it: none of its {len(skipped)} paths is a file{first}")
    names, stamps = list(found), torch.tensor(list(found.values()), dtype=torch.int64)  # (N, 2)
    listing = Listing(str(file), names, stamps, file_reader(root, names), list(skipped.items()))
    return with_labels(listing, config, root)
