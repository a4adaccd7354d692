"""Rows sharded or replicated over two ranks, gathered labels, and errors of one rank that all must hear of."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy.sparse import csr_array
from sklearn.base import clone

from tests.ranks import run_ranks
from tests.torch_clustering.made import close, made_rows
from torch_clustering import KMeans
from torch_clustering.minibatch import MiniBatchKMeans


def share(rank: int, world: int) -> list[Any]:
    """What is the same with rows on two ranks as on one."""
    x = made_rows(61, 5)
    own = x[:23] if rank == 0 else x[23:]
    weight = 1.0 + torch.arange(61) % 3
    alone = KMeans(7).fit(x, sample_weight=weight)
    every = {"distributed": True, "gather_labels": True}
    shards = KMeans(7, **every).fit(own, sample_weight=weight[:23] if rank == 0 else weight[23:])
    copies = KMeans(7, distributed=True, layout="replicated").fit(x.numpy(), sample_weight=weight)
    for model in (shards, copies):
        assert torch.as_tensor(model.labels_).tolist() == alone.labels_.tolist()
        assert close(model.cluster_centers_, alone.cluster_centers_, 1e-12)
    assert isinstance(copies.labels_, np.ndarray)
    copied = clone(KMeans(7, group=dist.group.WORLD, random_state=None)).fit(own)
    assert copied.group is dist.group.WORLD and pickle.loads(pickle.dumps(copied)).group is None
    seeded = KMeans(7, init="random", n_init=1, distributed=True, random_state=rank).fit(own)  # rank 0's counts
    assert close(seeded.inertia_, KMeans(7, init="random", n_init=1).fit(x).inertia_, 1e-12)
    function = {"init": lambda rows, n_clusters, random_state: x[random_state.permutation(61)[:n_clusters]]}
    by_function = KMeans(7, distributed=True, **function).fit(own)
    assert close(by_function.inertia_, KMeans(7, **function).fit(x).inertia_, 1e-12)
    return [copied.cluster_centers_, by_function.cluster_centers_]


def test_layouts_and_gathered_labels_give_every_rank_the_labels_of_one_process() -> None:
    first, second = run_ranks(2, share)
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def fail(rank: int, world: int) -> list[str]:
    """What goes wrong on rank 1 alone, as this rank hears of it."""
    x = made_rows(13, 5)
    flat = x if rank == 0 else x[0]
    short = x if rank == 0 else x[:12]
    weight = torch.ones(13) if rank == 0 else -torch.ones(13)
    heard = []
    for kind in (KMeans, MiniBatchKMeans):
        for arguments, rows, weights in [
            ({}, flat, None),
            ({}, x, weight),
            ({}, x if rank == 0 else csr_array(x.numpy()), None),
            ({"init": x[rank : rank + 3]}, x, None),
            ({"init": lambda rows, n_clusters, random_state: rows[: n_clusters - rank]}, x, None),
            ({"layout": "replicated"} if kind is KMeans else {"max_iter": 0}, short, None),
        ]:
            with pytest.raises(ValueError) as caught:
                kind(3, distributed=True, **arguments).fit(rows, sample_weight=weights)
            heard.append(str(caught.value))
    return heard


def test_what_is_wrong_on_one_rank_is_told_on_all() -> None:
    first, second = run_ranks(2, fail)
    assert first == second
    words = ["rank 1 of 2: Expected 2D", "rank 1 of 2: sample_weight", "rank 1 of 2: Sparse", "different centers"]
    words += [r"rank 1 of 2: init has shape (2, 5)", "[13, 12] rows"]
    assert all(word in told for word, told in zip(words, first, strict=False))
