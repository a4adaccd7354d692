"""The nearest neighbours of all images, and draws among them."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.state import FeatureShard
from torch_clustering import nearest_neighbors
from utils import distributed
from utils.compat import installed
from utils.draws import Draws
from utils.errors import UserError

MANY = 10_000  # rows; for 20,000 of 128 features faiss takes a third of the time


def mine_neighbors(shard: FeatureShard, k: int) -> Tensor:
    """(N, k) int32 rows nearest by cosine to each row, itself left out by number, nearest first. Collective.

    Exact, ties to the lowest row; equal on every rank. Only blocks of queries and their k answers travel. On one rank
    of a CPU faiss finds them among many rows in float32: those that it cannot tell apart may have changed places.
    """
    features = F.normalize(shard.features, dim=1)
    simple = distributed.world() == 1 and features.device.type == "cpu" and features.dtype == torch.float32
    if simple and len(features) >= MANY and installed("faiss"):
        return _by_faiss(features, k)
    _, rows = nearest_neighbors(features, k, metric="cosine", group=distributed.everyone())
    return distributed.gather_rows(rows.int())


def draw_neighbors(neighbors: Tensor, rows: Tensor, draws: Draws, purpose: str) -> Tensor:
    """(n, 1) int64 on the CPU: one of the neighbours (N, k) of each of `rows` (n,), uniformly; equal on all ranks.

    rows: the micro-batch of all ranks, as `Method.partners` is given.
    """
    numbers = draws.uniform_of_all(purpose, (1,), len(rows))  # (n, 1)
    places = (numbers * neighbors.shape[1]).long()
    return neighbors[rows.to(neighbors.device)].cpu().long().gather(1, places)


def check_neighbors(key: str, k: int, n_rows: int) -> None:
    """Raise UserError when `n_rows` rows have no `k` neighbours each; `key` is the config's name of k."""
    if k >= n_rows:
        problem = f"{k} neighbours of each of {n_rows} images"
        raise UserError(key, problem, f"use {n_rows - 1} or fewer" if n_rows > 1 else "add images")


def _by_faiss(features: Tensor, k: int) -> Tensor:
    """(N, k) int32 nearest by inner product to each row of length 1, itself left out, nearest first."""
    import faiss

    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features.numpy())
    found = torch.from_numpy(index.search(features.numpy(), k + 1)[1])
    others = found != torch.arange(len(found))[:, None]
    others[others.all(1), -1] = False  # a row with k or more equals may not be among its own nearest
    return found[others].view(-1, k).int()
