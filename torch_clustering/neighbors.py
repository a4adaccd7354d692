"""The nearest rows of each row, exact, on one process or on rows sharded over ranks.

n rows of this rank, N of all, D features, q queries, k neighbours, b rows of a block. "Squared" below is the squared
distance; with "cosine" it is that of rows at length 1, which is 2 (1 - cos).
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import (
    as_rows,
    check_features,
    check_finite,
    chunks,
    make_shard,
    one_of,
    refused_together,
    whole,
)
from torch_clustering._collectives import Group, gather, rank, world
from torch_clustering.assign import DIRECT, relative_error
from torch_clustering.grouped import travelling

MARGIN = 16  # candidates beyond k, so that rounding seldom asks for a second look
QUERIES = 512  # queries that a shard looks at together
ANSWER_NUMBERS = 1 << 22  # numbers that all ranks answer in one message


@dataclass(frozen=True)
class Keys:
    """This rank's rows, among which neighbours are sought.

    x (n, D); origin (D,) float64 in their midst, with values of x's dtype; first: global id of row 0.
    """

    x: Tensor
    origin: Tensor
    first: int
    cosine: bool

    def seen(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """(b, D) what products are taken with: rows about the origin, or at length 1."""
        wide = torch.promote_types(rows.dtype, dtype)
        return _unit(rows.double()).to(dtype) if self.cosine else (rows.to(wide) - self.origin.to(wide)).to(dtype)

    def squares(self, seen: Tensor) -> Tensor:
        """(b,) squared lengths of `seen` rows; a row of zeros has no direction and stands at right angles to all."""
        return torch.ones_like(seen[:, 0]) if self.cosine else seen.square().sum(1)

    def direct(self, queries: Tensor, rows: Tensor) -> Tensor:
        """(..., q, b) squared, by float64 differences, of queries (..., q, D) to rows (..., b, D).

        Each has the same bits whatever stands beside it.
        """
        queries, rows = queries.double(), rows.double()
        if not self.cosine:
            return torch.cdist(queries, rows, compute_mode=DIRECT).square_()
        squared = torch.cdist(_unit(queries), _unit(rows), compute_mode=DIRECT).square_()
        aimless = (~queries.any(-1))[..., :, None].double() + (~rows.any(-1))[..., None, :].double()
        return squared + aimless


def nearest_neighbors(
    x: Any,
    k: int,
    *,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    group: Group | None = None,
    exclude_self: bool = True,
    queries: Any = None,
) -> tuple[Any, Any]:
    """Distances (n, k), ascending, and global ids (n, k) int64 of the k nearest rows of each of this rank's rows.

    The order is that of float64 differences, ties to the lowest id: the same on any number of ranks and at whatever
    precision torch multiplies. No N x N matrix is made. Collective with a group: all ranks must call.

    Args:
        x: (n, D) this rank's rows; n may be 0. Ids count the rows of all ranks in rank order.
        k: at most the rows of all ranks, less one where a row's own is excluded.
        metric: "euclidean" (not squared), or "cosine": 1 - cos in [0, 2]; a row of zeros is at 1 from all.
        exclude_self: a row is not its own neighbour, by id: its duplicates are. Without `queries` only.
        queries: (m, D) this rank's rows whose neighbours among `x` are wanted instead; results then are (m, k).
    Returns:
        tensors on the rows' device for a tensor, else arrays; distances in the rows' dtype.
    Raises:
        ValueError: k is too large, NaN or infinity, different numbers of features; on every rank alike.

    >>> distances, rows = nearest_neighbors([[0.0], [1.0], [5.0], [7.0]], 2)
    >>> distances.tolist(), rows.tolist()
    ([[1.0, 5.0], [1.0, 4.0], [2.0, 4.0], [2.0, 6.0]], [[1, 2], [0, 2], [3, 1], [2, 1]])
    """
    with refused_together(group):
        one_of("metric", metric, ("euclidean", "cosine"))
        whole("k", k)
    shard = make_shard(x, None, 1, group)
    asked, excluded = shard.x, exclude_self and queries is None
    if queries is not None:
        with refused_together(group):
            asked = check_features(as_rows(queries), shard.x.shape[1]).to(shard.x.device)
            check_finite(asked)
    if k > shard.n_rows - excluded:
        raise ValueError(f"k={k} neighbours; {shard.n_rows} rows have at most {shard.n_rows - excluded}")
    origin = gather(shard.x.sum(0, dtype=torch.float64), group).sum(0) / shard.n_rows
    keys = Keys(shard.x, origin.to(shard.x.dtype).double(), shard.first, metric == "cosine")
    ids = torch.arange(len(asked), device=asked.device) + shard.first if excluded else None
    squared, rows = _across_ranks(keys, asked, ids, k, group)
    distances = (squared / 2 if keys.cosine else squared.sqrt()).to(shard.x.dtype)
    return (distances, rows) if isinstance(x, Tensor) else (distances.numpy(), rows.numpy())


def _across_ranks(keys: Keys, asked: Tensor, ids: Tensor | None, k: int, group: Group | None) -> tuple[Tensor, Tensor]:
    """Squared (q, k) float64 and global ids (q, k) over the rows of all ranks. Collective.

    Blocks of all ranks' queries travel past every shard; each shard answers with its own k nearest.
    """
    me, size = rank(group), max(16, min(QUERIES, ANSWER_NUMBERS // (2 * k * world(group) ** 2)))
    itself = torch.full_like(asked[:, 0], -1, dtype=torch.int64) if ids is None else ids
    squared = torch.empty((len(asked), k), dtype=torch.float64, device=asked.device)
    rows = torch.empty_like(squared, dtype=torch.int64)
    for part, queries, own_ids, ends in travelling(lambda part: asked[part].double(), itself, size, group):
        own_squared, own_rows = _search(keys, queries, own_ids, min(k, len(keys.x)), keys.x.dtype)
        missing = k - own_squared.shape[1]  # a rank of fewer rows offers rows infinitely far
        offers = gather(F.pad(own_squared, (0, missing), value=torch.inf), group)  # (W, q, k)
        offered = gather(F.pad(own_rows, (0, missing)), group)
        mine = slice(ends[me], ends[me + 1])
        offers, offered = (one[:, mine].transpose(0, 1).flatten(1) for one in (offers, offered))  # (b, W k)
        squared[part], rows[part] = _first(offers, offered, k)
    return squared, rows


def _search(keys: Keys, queries: Tensor, itself: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Squared (q, k) float64 and global ids (q, k) of the nearest of this rank's rows; `itself` is infinitely far.

    Products in `dtype` name candidates, float64 differences order them. Where a row that is no candidate may be as
    near, products in float64 decide, and then the differences to all rows.
    """
    if k == 0:  # a rank without rows
        return queries.new_zeros((len(queries), 0)), itself.new_zeros((len(queries), 0))
    if len(keys.x) <= k + MARGIN:
        return _search_directly(keys, queries, itself, k)
    candidates, bound = _candidates(keys, queries, itself, k + MARGIN, dtype)
    squared = keys.x.new_empty(candidates.shape, dtype=torch.float64)
    for part in chunks(len(queries), candidates.shape[1] * queries.shape[1], queries.device):
        squared[part] = keys.direct(queries[part, None], keys.x[candidates[part]])[:, 0]
    squared, rows = _first(squared, candidates + keys.first, k)
    unsure = torch.logical_not(squared[:, -1] < bound).nonzero()[:, 0]
    if len(unsure):
        asked, ids = queries[unsure], itself[unsure]
        again = _search_directly(keys, asked, ids, k) if dtype == torch.float64 else None
        squared[unsure], rows[unsure] = again or _search(keys, asked, ids, k, torch.float64)
    return squared, rows


def _candidates(
    keys: Keys, queries: Tensor, itself: Tensor, n_candidates: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """(q, c) positions of the rows of least scores, and (q,) float64 what all others' squared distances exceed.

    The bound is -inf where numbers overflowed: then positions mean nothing.
    """
    seen = keys.seen(queries, dtype)
    best, found = seen.new_empty((len(seen), 0)), itself.new_empty((len(seen), 0))
    worst, radius = seen.new_full((len(seen),), torch.inf), seen.new_zeros(())
    parts = chunks(len(keys.x), max(len(seen), seen.shape[1]), seen.device)
    for part in parts:
        block = keys.seen(keys.x[part], dtype)
        squares = keys.squares(block)
        radius = torch.maximum(radius, squares.max())
        scores = torch.addmm(squares, seen, block.T, alpha=-2)  # (q, b) = squared - |query|²
        position = itself - keys.first - part.start
        own = ((position >= 0) & (position < len(block))).nonzero()[:, 0]
        scores[own, position[own]] = torch.inf
        values, columns = _below(scores, worst)
        best, found = torch.cat([best, values], 1), torch.cat([found, columns + part.start], 1)
        # sorting is dear: not for a few more
        if best.shape[1] > 1.5 * n_candidates or part is parts[-1]:
            best, kept = best.topk(n_candidates, largest=False)
            found, worst = found.gather(1, kept), best.amax(1)
    squares = keys.squares(seen).double()
    error = 2 * relative_error(seen) * (squares.sqrt() + radius.double().sqrt()).square()
    bound = worst.double() + squares - error
    return found, torch.where(bound.isfinite(), bound, -torch.inf)


def _below(scores: Tensor, worst: Tensor) -> tuple[Tensor, Tensor]:
    """(q, h) scores (q, b) below `worst` (q,) and their columns, filled up with infinity; h is small after a while."""
    if bool(worst.isinf().any()):
        return scores, torch.arange(scores.shape[1], device=scores.device).expand_as(scores)
    query, column = (scores < worst[:, None]).nonzero().unbind(1)  # (p,) by query
    counts = torch.bincount(query, minlength=len(scores))
    place = torch.arange(len(query), device=query.device) - (counts.cumsum(0) - counts)[query]
    width = int(counts.max())
    values, columns = scores.new_full((len(scores), width), torch.inf), column.new_zeros((len(scores), width))
    values[query, place], columns[query, place] = scores[query, column], column
    return values, columns


def _search_directly(keys: Keys, queries: Tensor, itself: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """As `_search`, by float64 differences to all rows of this rank."""
    found = []
    for part in chunks(len(queries), len(keys.x), queries.device):
        pieces = chunks(len(keys.x), keys.x.shape[1], queries.device)
        squared = torch.cat([keys.direct(queries[part], keys.x[piece]) for piece in pieces], 1)
        rows = torch.arange(len(keys.x), device=queries.device) + keys.first
        squared.masked_fill_(rows == itself[part, None], torch.inf)
        found.append(_first(squared, rows.expand(len(squared), -1), k))
    return torch.cat([squared for squared, _ in found]), torch.cat([rows for _, rows in found])


def _first(squared: Tensor, rows: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k least of each line, and their ids: by distance, ties by id."""
    rows, by_id = rows.sort(1)
    squared, order = squared.gather(1, by_id).sort(stable=True, dim=1)
    return squared[:, :k], rows.gather(1, order)[:, :k]


def _unit(x: Tensor) -> Tensor:
    """Rows at length 1; rows of zeros stay."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
