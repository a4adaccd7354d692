"""Retrieval by the embedding: how early images of a query's class come among all images of a bank, nearest first.

The bank's rows stay on their ranks. Queries pass every shard in chunks; of a query its similarities to the rows of its
own class travel, which for C classes of equal size are a C-th of all.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from evaluation.knn import unit_rows
from evaluation.progress import Progress
from training.build import Run
from training.embed import map_rows
from utils import distributed

RECALL_AT = (1, 5, 10)
MOST_QUERIES = 10_000  # of more, so many evenly spread ones: each costs a sort of the bank
CHUNK_SIMILARITIES = 2**22  # 16 MiB of float32 a chunk and rank; sorted, masked and ranked copies beside it: five times


def retrieve(
    bank: Tensor,
    bank_truth: Tensor,
    queries: Tensor,
    query_truth: Tensor,
    *,
    own: Tensor | None = None,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Average precision, and the rows of other classes ahead, of each query of all ranks. Collective: equal on all.

    Average precision is scikit-learn's `average_precision_score` of the cosine to every bank row: equal similarities
    share one rank. A query is found among k rows where fewer than k rows of other classes are at least as near as the
    nearest row of its class.

    Args:
        bank: (m, D) this rank's rows; m may differ between ranks and be 0. bank_truth: (m,) int64 their classes.
        queries: (n, D) this rank's queries; n may differ between ranks and be 0. query_truth: (n,) int64.
        own: (n,) int64 the place of each query in the whole bank, which is left out; None: queries are no bank rows.
        chunk: queries of each rank that are scored at once; by default what a bounded block of similarities holds.

    Returns:
        precision (Q,) float64 in [0, 1] and ahead (Q,) int64 of all ranks' Q queries in rank order; NaN and -1 where no
        other row of the bank has the query's class.
    """
    sizes = distributed.gather_rows(torch.tensor([[len(bank), len(queries)]], device=bank.device)).tolist()
    total = sum(bank_rows for bank_rows, _ in sizes)
    first = sum(bank_rows for bank_rows, _ in sizes[: distributed.rank()])
    chunk = chunk or max(1, CHUNK_SIMILARITIES // max(1, total))
    bank, queries = unit_rows(bank), unit_rows(queries)
    if own is None:
        own = torch.full_like(query_truth, -1)
    precision, ahead = [queries.new_zeros(0, dtype=torch.float64)], [query_truth.new_zeros(0)]
    rounds = range(0, max(query_rows for _, query_rows in sizes), chunk)  # as many on every rank
    progress = Progress("retrieval, parts of the queries", len(rounds))
    for start in rounds:
        block = slice(start, start + chunk)
        facts = torch.stack([query_truth[block], own[block]], 1)
        found = _rank_chunk(bank, bank_truth, first, queries[block], facts)
        precision.append(found[0])
        ahead.append(found[1])
        progress.add()
    return distributed.gather_rows(torch.cat(precision)), distributed.gather_rows(torch.cat(ahead))


def score_retrieval(run: Run) -> dict[str, Any] | None:
    """Recall at 1, 5 and 10 and mean average precision of the embedding, with their protocol. Collective: equal on all.

    None where the source has no ground truth, or no query has another row of its class. Bank and queries are the
    source's train and test rows; without a split each row is sought among all others. More than 10,000 queries are
    thinned to evenly spread ones. Rows of unknown truth take no part. recall@k is the share of queries with a row of
    their class among the k nearest; the mean average precision takes the whole ranking.
    """
    truth = run.source.read_truth(None)
    if truth is None:
        return None
    split = run.source.knn_split()
    everything = torch.arange(len(truth)) if split is None else split[0]
    bank_rows = everything[truth[everything] >= 0]
    start, stop = _part_of(len(bank_rows))
    bank = _embed(run, bank_rows[start:stop])
    if split is None:
        asked = _thinned(torch.arange(len(bank_rows)))
        asked_here = asked[(asked >= start) & (asked < stop)]
        queries, query_rows = bank[(asked_here - start).to(bank.device)], bank_rows[asked_here]
        own = asked_here.to(bank.device)
    else:
        asked = _thinned(split[1][truth[split[1]] >= 0])
        begin, end = _part_of(len(asked))
        query_rows, own = asked[begin:end], None
        queries = _embed(run, query_rows)
    precision, ahead = retrieve(
        bank, truth[bank_rows[start:stop]].to(bank.device), queries, truth[query_rows].to(bank.device), own=own
    )
    scored = ahead >= 0
    n_scored = int(scored.sum())
    if n_scored == 0:
        return None
    recall = {f"recall@{k}": float((ahead[scored] < k).double().mean()) for k in RECALL_AT}
    among = f"bank of {len(bank_rows):,}" if split is not None else f"each among the other {len(bank_rows) - 1:,} rows"
    return {
        **recall,
        "map": float(precision[scored].mean()),
        "features": run.method.embed_name,
        "protocol": f"{n_scored:,} queries, {among}",
    }


def _rank_chunk(bank: Tensor, classes: Tensor, first: int, queries: Tensor, facts: Tensor) -> tuple[Tensor, Tensor]:
    """Average precision and rows of other classes ahead of this rank's queries of one chunk. Collective.

    facts: (n, 2) int64, the class and the own place in the bank of each query.
    """
    sizes = distributed.gather_rows(torch.tensor([len(queries)], device=queries.device)).tolist()
    truth, own = distributed.gather_rows(facts).unbind(1)  # (Q,) of all ranks' queries of this chunk
    similarity = distributed.gather_rows(queries) @ bank.T  # (Q, m)
    same = truth[:, None] == classes  # (Q, m)
    row = ((own >= first) & (own < first + len(bank))).nonzero()[:, 0]
    similarity[row, own[row] - first] = -torch.inf  # which is no row
    wanted = _ascending(_of_all_ranks(similarity, same))  # (Q, R) -inf where a query has fewer rows of its class
    n_below = torch.searchsorted(_ascending(similarity), wanted)
    at_least = distributed.reduce_sum_(len(bank) - n_below)  # (Q, R) rows at least as near, of any class
    start = sum(sizes[: distributed.rank()])
    mine = slice(start, start + len(queries))
    wanted, at_least = wanted[mine], at_least[mine]
    alike = wanted.shape[1] - torch.searchsorted(wanted, wanted)  # (n, R) rows of its class at least as near
    exists = wanted > -torch.inf
    precision = torch.where(exists, alike.double() / at_least, 0).sum(1) / exists.sum(1)  # NaN without any
    if wanted.shape[1] == 0:
        return precision, torch.full_like(precision, -1, dtype=torch.int64)
    return precision, torch.where(exists[:, -1], at_least[:, -1] - alike[:, -1], -1)


def _of_all_ranks(similarity: Tensor, same: Tensor) -> Tensor:
    """(Q, R) the similarities of all ranks' rows of the same class, in any order, filled up with -inf. Collective."""
    rows = similarity[same].split(same.sum(1).tolist()) if len(same) else []
    own = pad_sequence(list(rows), batch_first=True, padding_value=-torch.inf) if rows else similarity[:, :0]
    width = int(distributed.gather_rows(torch.tensor([own.shape[1]], device=own.device)).max())
    everyones = distributed.gather_rows(F.pad(own, (0, width - own.shape[1]), value=-torch.inf))  # (W Q, width)
    return everyones.unflatten(0, (distributed.world(), -1)).transpose(0, 1).flatten(1)


def _ascending(values: Tensor) -> Tensor:
    """Each row in ascending order; NumPy sorts numbers alone several times faster than torch does on a CPU."""
    if values.device.type == "cpu":
        return torch.from_numpy(np.sort(values.numpy(), axis=1))
    return values.sort(dim=1).values


def _embed(run: Run, rows: Tensor) -> Tensor:
    return map_rows(run.method.embed, run.method, run.feed.store, run.feed.views, rows, run.settings.optim.precision)


def _part_of(n_rows: int) -> tuple[int, int]:
    """Where this rank's part of so many rows begins and ends."""
    rank, world = distributed.rank(), distributed.world()
    return rank * n_rows // world, (rank + 1) * n_rows // world


def _thinned(rows: Tensor) -> Tensor:
    return rows if len(rows) <= MOST_QUERIES else rows[torch.arange(MOST_QUERIES) * len(rows) // MOST_QUERIES]
