"""The weighted k-nearest-neighbour classifier (Wu et al. 2018) over a bank whose rows stay on their ranks.

Queries pass every shard of the bank in chunks; only each query's k best travel.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from training.build import Run
from training.embed import map_rows
from utils import distributed

CHUNK_SIMILARITIES = 2**24  # 64 MiB of float32 a chunk and rank


def nearest_rows(
    bank: Tensor, queries: Tensor, *, neighbors: int, exclude_self: bool = False, chunk: int | None = None
) -> tuple[Tensor, Tensor]:
    """Cosine similarity and bank position of each query's nearest bank rows, best first. Collective.

    Args:
        bank: (m, D) this rank's rows; the bank is the concatenation over ranks, m may differ and be 0.
        queries: (n, D) this rank's queries; n may differ between ranks and be 0.
        neighbors: k; fewer are used where the bank is smaller.
        exclude_self: the queries are the bank, row by row: a query's own position (not its first hit, which may be a
            duplicate) is left out.
        chunk: queries of each rank that are scored at once; by default what a bounded block of similarities holds.

    Returns:
        similarity (n, k), in the features' precision, float32 at least, and position (n, k) int64 in the whole bank;
        of equal similarities the lowest position comes first.
    """
    sizes = distributed.gather_rows(torch.tensor([[len(bank), len(queries)]], device=bank.device)).tolist()
    total = sum(bank_rows for bank_rows, _ in sizes)
    first = sum(bank_rows for bank_rows, _ in sizes[: distributed.rank()])
    k = min(neighbors, total - int(exclude_self))
    if k < 1:
        raise ValueError(f"{neighbors} neighbors asked of a bank of {total} rows (exclude_self={exclude_self})")
    chunk = chunk or max(1, CHUNK_SIMILARITIES // total)
    bank, queries = unit_rows(bank), unit_rows(queries)
    positions = first + torch.arange(len(queries), device=bank.device)
    similarity, neighbor = [], []
    for start in range(0, max(query_rows for _, query_rows in sizes), chunk):  # as many rounds on every rank
        block = slice(start, start + chunk)
        best = _nearest_of_chunk(bank, first, queries[block], positions[block] if exclude_self else None, k)
        similarity.append(best[0])
        neighbor.append(best[1])
    if not similarity:
        return bank.new_empty((0, k)), positions.new_empty((0, k))
    return torch.cat(similarity), torch.cat(neighbor)


def knn_classify(
    bank: Tensor,
    bank_truth: Tensor,
    queries: Tensor,
    *,
    neighbors: int = 20,
    temperature: float = 0.07,
    n_classes: int | None = None,
    exclude_self: bool = False,
    chunk: int | None = None,
) -> Tensor:
    """(n, C) float64 class probabilities of this rank's queries: the k nearest vote with exp(cosine / T). Collective.

    Wu et al. 2018 (instance discrimination). bank_truth (m,) int64 are the classes of this rank's bank rows;
    n_classes: C, by default the largest class + 1. The other arguments are those of `nearest_rows`.
    """
    similarity, position = nearest_rows(bank, queries, neighbors=neighbors, exclude_self=exclude_self, chunk=chunk)
    classes = distributed.gather_rows(bank_truth)  # (m over all ranks,): one number a row
    n_classes = n_classes or int(classes.max()) + 1
    similarity = similarity.double()
    votes = ((similarity - similarity[:, :1]) / temperature).exp()  # (n, k); the best is 1: exp cannot overflow
    scores = votes.new_zeros((len(votes), n_classes)).scatter_add_(1, classes[position], votes)  # (n, C)
    return scores / scores.sum(1, keepdim=True)


def knn_accuracy(probabilities: Tensor, truth: Tensor, top: int = 1) -> float:
    """Share in [0, 1] of all ranks' queries whose class is among the `top` most probable. Collective.

    probabilities (n, C) and truth (n,) of this rank's queries; of equal probabilities the lowest class goes first.
    """
    guesses = probabilities.sort(dim=1, descending=True, stable=True).indices[:, :top]  # (n, top)
    hits = (guesses == truth[:, None]).any(1).sum()
    n_hits, n_queries = distributed.reduce_sum_(torch.stack([hits, hits.new_tensor(len(truth))])).tolist()
    return n_hits / n_queries


def score_knn(run: Run) -> dict[str, Any] | None:
    """kNN accuracy of the encoder's output with its protocol; None where the source has no ground truth. Collective.

    The bank are the source's train rows and the queries its test rows; a source without a split is scored by
    leave-one-out. Rows of unknown truth take no part. All ranks receive the same numbers.
    """
    truth = run.source.read_truth(None)
    if truth is None:
        return None
    split = run.source.knn_split()
    everything = torch.arange(len(truth)) if split is None else split[0]
    bank_rows = everything[truth[everything] >= 0]
    bank, bank_truth = encode_part(run, bank_rows, truth)
    options = run.settings.eval
    if split is None:
        protocol, query_truth = f"leave-one-out over {len(bank_rows):,} rows", bank_truth
        queries = bank
    else:
        query_rows = split[1][truth[split[1]] >= 0]
        protocol = f"{len(query_rows):,} queries, bank of {len(bank_rows):,}"
        queries, query_truth = encode_part(run, query_rows, truth)
    probabilities = knn_classify(
        bank,
        bank_truth,
        queries,
        neighbors=options.knn_neighbors,
        temperature=options.knn_temperature,
        n_classes=int(truth.max()) + 1,
        exclude_self=split is None,
    )
    return {
        "accuracy": knn_accuracy(probabilities, query_truth),
        "features": run.method.encode_name,
        "protocol": protocol,
        "neighbors": options.knn_neighbors,
        "temperature": options.knn_temperature,
    }


def encode_part(run: Run, rows: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Encoder output and truth of this rank's contiguous part of `rows`, on the device."""
    rank, world = distributed.rank(), distributed.world()
    part = rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
    precision = run.settings.optim.precision
    features = map_rows(run.method.encode, run.method, run.feed.store, run.feed.views, part, precision)
    return features, truth[part].to(features.device)


def _nearest_of_chunk(bank: Tensor, first: int, queries: Tensor, own: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """The k best of the whole bank for this rank's queries of one chunk. Collective."""
    asked = distributed.gather_rows(torch.tensor([len(queries)], device=queries.device)).tolist()
    everyones = distributed.gather_rows(queries)  # (Q, D) all ranks' queries of this chunk
    similarity = everyones @ bank.T  # (Q, m)
    if own is not None:
        column = distributed.gather_rows(own) - first  # (Q,)
        row = ((column >= 0) & (column < len(bank))).nonzero()[:, 0]
        similarity[row, column[row]] = -torch.inf
    best, column = _largest(similarity, min(k, len(bank)))
    padding = k - best.shape[1]  # a shard smaller than k
    best = distributed.gather_rows(F.pad(best, (0, padding), value=-torch.inf))  # (W Q, k)
    position = distributed.gather_rows(F.pad(column + first, (0, padding)))
    if distributed.world() == 1:
        return best, position
    start = sum(asked[: distributed.rank()])
    mine = slice(start, start + len(queries))
    # (W Q, k) to (own, W k): shards in rank order, so that a stable sort keeps the lowest of equal positions first
    best = best.unflatten(0, (distributed.world(), -1))[:, mine].transpose(0, 1).flatten(1)
    position = position.unflatten(0, (distributed.world(), -1))[:, mine].transpose(0, 1).flatten(1)
    best, column = _largest(best, k)
    return best, position.gather(1, column)


def _largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their columns, best first; of equal values the lowest column first."""
    if k == 0 or values.shape[1] <= k + 1 or len(values) == 0:
        best, column = values.sort(dim=1, descending=True, stable=True)
        return best[:, :k], column[:, :k]
    best, column = values.topk(k + 1, dim=1)
    tied = (best[:, k - 1] == best[:, k]).nonzero()[:, 0]  # rows where top-k chose freely between equals
    best, column = best[:, :k], column[:, :k].sort(dim=1).values
    column[tied] = values[tied].sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    best, order = values.gather(1, column).sort(dim=1, descending=True, stable=True)
    return best, column.gather(1, order)


def unit_rows(features: Tensor) -> Tensor:
    """(n, D) rows at length 1, in float32 at least; rows of zeros stay."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)
