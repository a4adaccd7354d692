"""Which rows each optimiser step sees: the same global order on every rank, whatever their number."""

from collections.abc import Iterator

import torch
from torch import Tensor

from utils.draws import seeded
from utils.errors import UserError


class Sampler:
    """Global batches of row ids, epoch after epoch; the rows left over at an epoch's end are dropped.

    first_row, name: for rows [first_row, first_row + n_rows) that only train, with a stream of random numbers of their
    own under this name.

    Raises:
        UserError: fewer rows than a global batch.
    """

    def __init__(self, n_rows: int, global_batch: int, seed: int, first_row: int = 0, name: str = "order") -> None:
        if n_rows < global_batch:
            rows = "rows of the data set" if first_row == 0 else f"rows of the data set after row {first_row - 1}"
            raise UserError(
                "optim.global_batch",
                f"{global_batch} is more than the {n_rows} {rows}",
                f"set it to {n_rows} or fewer" if n_rows else "choose a data.split that has such rows",
            )
        self.n_rows, self.global_batch, self.seed = n_rows, global_batch, seed
        self.first_row, self.name = first_row, name
        self.steps_per_epoch = n_rows // global_batch

    def epoch(
        self, epoch: int, start: int = 0, labels: Tensor | None = None, n_clusters: int | None = None
    ) -> Iterator[Tensor]:
        """The global batch of each step from `start` on: (global_batch,) int64 row ids on the CPU.

        Without labels a permutation of all rows. With `labels` (n_rows,) and `n_clusters`, draws with replacement that
        are balanced over clusters: as many steps, a row may come twice.
        """
        if labels is None:
            order = torch.randperm(self.n_rows, generator=seeded(self.seed, self.name, epoch))
        else:
            assert n_clusters is not None, "labels without n_clusters"
            assert len(labels) == self.n_rows, f"{len(labels)} labels for {self.n_rows} rows"
            n_draws = self.steps_per_epoch * self.global_batch
            numbers = torch.rand(n_draws, generator=seeded(self.seed, "resample", epoch), dtype=torch.float64)
            order = draw_rows(balanced_weights(labels.cpu(), n_clusters), numbers)
        for step in range(start, self.steps_per_epoch):
            yield order[step * self.global_batch : (step + 1) * self.global_batch] + self.first_row


def part(rows: Tensor, micro: int, n_micro: int, rank: int, world: int) -> tuple[Tensor, int]:
    """This rank's rows (B,) of micro-batch `micro`, and the position of the first of them in the global batch.

    rows (global batch,): micro-batch j is its j-th of `n_micro` parts, rank r has the r-th of `world` parts of that.
    """
    size, rest = divmod(len(rows), n_micro * world)
    assert rest == 0, f"{len(rows)} rows cannot be cut into {n_micro} micro-batches for {world} ranks"
    start = (micro * world + rank) * size
    return rows[start : start + size], start


def balanced_weights(labels: Tensor, n_clusters: int) -> Tensor:
    """(N,) float64: N / size of its cluster, so that all clusters that have rows weigh the same; 0 for label -1."""
    known = labels >= 0
    sizes = torch.bincount(labels[known], minlength=n_clusters).to(torch.float64)
    return torch.where(known, len(labels) / sizes[labels.clamp(min=0)], 0.0)


def draw_rows(weights: Tensor, numbers: Tensor) -> Tensor:
    """Rows by the inverse of the cumulative weights at `numbers` in [0, 1); torch.multinomial ends at 2^24 rows."""
    cumulative = weights.cumsum(0)
    cumulative = cumulative / cumulative[-1]  # ends at exactly 1: no number reaches past the last row with weight
    return torch.searchsorted(cumulative, numbers, right=True)
