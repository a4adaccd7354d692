"""ImageNet (ILSVRC 2012) and what is cut from it: one folder of photographs per class, named by its WordNet id."""

from collections.abc import Sequence
from pathlib import Path

import torch

from data.listing import Listing
from data.sources.arrays import LABELLED_SPLITS, parts_of
from data.sources.base import DataConfig, Source
from data.sources.encoded import EncodedImages
from data.sources.folder import list_tree
from utils.errors import UserError

FOLDERS = {"train": "train", "test": "val"}  # the published test images have no labels: val is the test part
N_CLASSES = 1000


def imagenet(config: DataConfig) -> Source:
    """A thousand classes, 1,281,167 train and 50,000 val images (split test), 224 pixels."""
    return open_classes("imagenet", config, N_CLASSES, LABELLED_SPLITS, default_size=224)


def open_classes(
    name: str, config: DataConfig, classes: Sequence[str] | int, splits: Sequence[str], default_size: int
) -> Source:
    """The images of `data.root`/NAME/{train,val}/WNID, or of `data.root`/{train,val}/WNID; class = rank of the WNID.

    classes: the WordNet ids that must be there, no others, or their number.

    Raises:
        UserError: the set has no such split, is not prepared, or another one lies there.
    """
    parts = parts_of(name, config.split, splits)
    places = [place for place in (config.root / name, config.root) if (place / "train").is_dir()]
    if not places:
        raise UserError("data.root", f"no {name} in '{config.root / name}'", prepare_hint(name))
    folders = [places[0] / FOLDERS[part] for part in parts]
    for folder in folders:
        if not folder.is_dir():
            raise UserError("data.split", f"'{folder}' is not there", "data.split=train does without")
        check_classes(name, folder, count_files(folder), classes)
    listings = [list_tree(folder, labelled=True) for folder in folders]
    listing = join(listings, [folder.name for folder in folders])
    n_train = len(listings[0]) if len(parts) > 1 else None
    return EncodedImages(name, listing, config, words=config.split, default_size=default_size, n_train=n_train)


def count_files(folder: Path) -> dict[str, int]:
    """Files in each subfolder that has any, by its name; as in a listing, links to folders are not followed."""
    subfolders = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and not sub.is_symlink()]
    counts = {sub.name: sum(1 for _ in sub.iterdir()) for sub in subfolders}
    return {name: count for name, count in counts.items() if count}


def check_classes(name: str, folder: Path, counts: dict[str, int], classes: Sequence[str] | int) -> None:
    """Raises UserError unless the subfolders with files are the classes of the set: names alone tell nothing."""
    if isinstance(classes, int):
        if len(counts) != classes:
            raise UserError(str(folder), f"is not {name}: it has {len(counts):,} classes, not {classes:,}")
        return
    missing, others = sorted({*classes} - counts.keys()), sorted(counts.keys() - {*classes})
    if missing or others:
        facts = [f"it has no {', '.join(missing)}"] if missing else []
        facts += [f"it has {', '.join(others[:3])}{', ...' if len(others) > 3 else ''}"] if others else []
        raise UserError(str(folder), f"is another data set than {name}: {', but '.join(facts)}", prepare_hint(name))


def prepare_hint(name: str) -> str:
    """What to do about a set that is not there."""
    return f"python main.py prepare {name} --from DIR makes it of the official files in DIR"


def join(listings: Sequence[Listing], prefixes: Sequence[str]) -> Listing:
    """One listing after the other, each item's name behind its prefix and a slash."""
    firsts = [0]
    for listing in listings:
        firsts.append(firsts[-1] + len(listing))
    pairs = list(zip(prefixes, listings, strict=True))

    def read(item: int) -> bytes:
        which = next(i for i, first in enumerate(firsts[1:]) if item < first)
        return listings[which].read(item - firsts[which])

    return Listing(
        where=str(Path(listings[0].where).parent),
        names=[f"{prefix}/{name}" for prefix, listing in pairs for name in listing.names],
        stamps=torch.cat([listing.stamps for listing in listings]),
        read=read,
        skipped=[(f"{prefix}/{name}", reason) for prefix, listing in pairs for name, reason in listing.skipped],
        labels=[label for listing in listings for label in listing.labels or []],
    )
