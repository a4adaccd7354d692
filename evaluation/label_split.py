"""Which labelled rows fit a classifier and which judge it."""

import torch
from torch import Tensor

from data.sources.base import Source
from utils.draws import seeded

TEST_EVERY = 5  # a source without a split: every fifth row is a test row


def train_and_test(source: Source, truth: Tensor) -> tuple[Tensor, Tensor, str]:
    """Train rows and test rows of known truth, and what the latter are where the source does not say."""
    known = (truth >= 0).nonzero()[:, 0]
    split = source.knn_split()
    if split is not None:
        train, test = (rows[truth[rows] >= 0] for rows in split)
        return train, test, ""
    is_test = torch.arange(len(known)) % TEST_EVERY == 0
    return known[~is_test], known[is_test], f" (every {TEST_EVERY}th)"


def stratified(classes: Tensor, share: float, seed: int, purpose: str) -> Tensor:
    """Places, ascending, of `share` of the rows of each class, at least one each, drawn by (seed, purpose).

    classes: (n,) int64 on the CPU.
    """
    if share == 1:
        return torch.arange(len(classes))
    order = torch.randperm(len(classes), generator=seeded(seed, "linear", purpose))
    chosen = []
    for one in classes.unique():
        own = order[classes[order] == one]
        chosen.append(own[: max(1, round(share * len(own)))])
    return torch.cat(chosen).sort().values if chosen else order
