"""MiniBatchKMeans against scikit-learn's numbers (float64, compared at 1e-9), streams, stopping and ranks."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.ranks import run_ranks
from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import KMeans
from torch_clustering.minibatch import MiniBatchKMeans, Patience

STORED = numbers("kmeans")["minibatch_partial_fit"]


def test_each_batch_moves_the_centers_to_the_stored_ones() -> None:
    x = made_rows(STORED["N"], STORED["d"], STORED["s"])
    model = MiniBatchKMeans(4, init=x[STORED["init_rows"]], reassignment_ratio=STORED["reassignment_ratio"])
    for step, expected in enumerate(STORED["after_each"], start=1):
        batch = x[20 * step - 20 : 20 * step]
        model.partial_fit(batch)
        assert close(model.cluster_centers_, expected["centers"]) and close(model.counts_, expected["counts"])
        assert model.n_steps_ == step and torch.equal(model.labels_, model.predict(batch))
        assert close(model.inertia_, -model.score(batch))


def test_a_center_is_the_mean_of_all_rows_it_was_given() -> None:
    x = torch.tensor([[0.0], [1.0], [5.0], [10.0], [12.0], [8.0]], dtype=torch.float64)
    model = MiniBatchKMeans(2, init=[[-1.0], [9.0]])
    for batch in (x[[0, 3]], x[[1, 4]], x[[2, 5]]):
        model.partial_fit(batch, sample_weight=[1.0, 2.0])
    assert close(model.cluster_centers_, [[2.0], [10.0]]) and close(model.counts_, [3.0, 6.0])


def test_rows_of_weight_zero_are_labelled_and_change_nothing() -> None:
    x = made_rows(60, 5)
    weight = (torch.arange(60) % 5 != 0).double()
    plain, weighted = MiniBatchKMeans(3, init=x[1:4]), MiniBatchKMeans(3, init=x[1:4])
    plain.partial_fit(x[weight > 0])
    weighted.partial_fit(x, sample_weight=weight)
    assert torch.equal(weighted.cluster_centers_, plain.cluster_centers_) and len(weighted.labels_) == 60
    assert close(weighted.inertia_, plain.inertia_)
    fitted = MiniBatchKMeans(3).fit(torch.cat([x, torch.full((60, 5), 1e3)]), sample_weight=[1] * 60 + [0] * 60)
    assert float(fitted.cluster_centers_.max()) < 10


def blobs(n_rows: int = 1009) -> Tensor:
    noise = torch.randn(n_rows, 7, generator=torch.Generator().manual_seed(3))
    return 9 * torch.eye(7)[torch.arange(n_rows) % 5] + noise / 3


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_fit_finds_the_clusters_that_whole_passes_find(metric: Any) -> None:
    x = blobs()
    model, whole = MiniBatchKMeans(5, metric=metric, batch_size=101).fit(x), KMeans(5, metric=metric).fit(x)
    pairs = torch.stack([model.labels_, whole.labels_]).unique(dim=1)
    assert pairs.shape == (2, 5) and model.inertia_ == pytest.approx(whole.inertia_, rel=0.05)
    assert model.inertia_ == pytest.approx(-model.score(x), rel=1e-6) and torch.equal(model.labels_, model.predict(x))
    if metric == "cosine":
        assert close(model.cluster_centers_.norm(dim=1), torch.ones(5), 1e-6)
    again = MiniBatchKMeans(5, metric=metric, batch_size=101).fit(x)
    assert torch.equal(again.cluster_centers_, model.cluster_centers_)
    one, other = (MiniBatchKMeans(5, init=x[:5], batch_size=101, random_state=seed).fit(x) for seed in (0, 1))
    assert not torch.equal(one.cluster_centers_, other.cluster_centers_)


def test_fit_stops_by_passes_by_movement_or_when_nothing_improves() -> None:
    x = blobs()
    settings: dict[str, Any] = {"init": x[:5], "batch_size": 101}
    passes = MiniBatchKMeans(5, max_iter=3, max_no_improvement=None, **settings).fit(x)
    assert passes.n_steps_ == 3 * 1009 // 101 and passes.n_iter_ == 3
    assert MiniBatchKMeans(5, tol=1e6, **settings).fit(x).n_steps_ == 2
    few, more = (MiniBatchKMeans(5, max_no_improvement=n, **settings).fit(x).n_steps_ for n in (1, 5))
    assert 2 < few < more < 100 * 1009 // 101


def test_patience_counts_batches_since_the_least_smoothed_inertia() -> None:
    patience = Patience(0.5, 3)
    over = [patience.is_over(inertia) for inertia in (8.0, 4.0, 6.0, 6.0, 5.0, 9.0, 9.0, 9.0)]
    # smoothed: 8, 6, 6, 6, 5.5, 7.25, ...
    assert over == [False, False, False, False, False, False, False, True]


def test_a_cluster_that_hardly_sees_rows_is_moved_to_some_row_of_a_batch() -> None:
    x = blobs(101)
    start = torch.cat([x[:2], torch.full((1, 7), 1e4)])
    stuck = MiniBatchKMeans(3, init=start, reassignment_ratio=0.0).partial_fit(x)
    assert stuck.counts_[2] == 0 and float(stuck.cluster_centers_[2, 0]) == 1e4
    model = MiniBatchKMeans(3, init=start).partial_fit(x)
    assert bool((x == model.cluster_centers_[2]).all(1).any())
    assert model.counts_[2] == model.counts_[:2].min()
    assert bool((MiniBatchKMeans(3, init=start).fit(x).labels_.bincount(minlength=3) > 0).all())
    weight = (torch.arange(101) < 51).double()
    weighted = MiniBatchKMeans(13, init=torch.cat([x[:1], torch.full((12, 7), 1e4)]))
    weighted.partial_fit(torch.where(weight[:, None] > 0, x, 1e5), sample_weight=weight)
    assert float(weighted.cluster_centers_.max()) < 1e2  # no center becomes a row of weight zero
    # no more than half of the batch's rows become centers
    few = MiniBatchKMeans(13, init=torch.cat([x[:1], torch.full((12, 7), 1e4)])).partial_fit(x[:13])
    assert int((few.cluster_centers_[:, 0] < 1e3).sum()) == 1 + 6


def test_a_stream_goes_on_after_a_copy_and_keeps_the_first_precision() -> None:
    x = blobs()
    model = MiniBatchKMeans(5).partial_fit(x[:101])
    twin = copy.deepcopy(model)
    for part in (x[101:211].double(), x[211:307].numpy()):
        assert np.array_equal(model.partial_fit(part).cluster_centers_, twin.partial_fit(part).cluster_centers_)
    assert isinstance(model.cluster_centers_, np.ndarray) and model.cluster_centers_.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"max_no_improvement": 0}, "max_no_improvement=0"),
        ({"init_size": -1}, "init_size=-1"),
        ({"reassignment_ratio": -0.1}, "reassignment_ratio=-0.1"),
        ({"n_init": 0}, "n_init=0"),
        ({"tol": "small"}, "tol=small"),
        ({"metric": "l1"}, "metric='l1'.*'cosine'"),
        ({"init": "k-means"}, "init='k-means'.*'random'"),
        ({"n_clusters": 14}, "13 rows for 14 clusters"),
    ],
)
def test_impossible_settings_are_refused_with_their_value(arguments: dict, message: str) -> None:
    for method in (MiniBatchKMeans(**arguments).fit, MiniBatchKMeans(**arguments).partial_fit):
        with pytest.raises(ValueError, match=message):
            method(made_rows(13, 5))


def learn(rank: int, world: int) -> list[Any]:
    """Centers by `fit` and by a stream, and own labels; rank 1 has no rows of the second batch."""
    x = blobs()
    ends = [0, 1009] if world == 1 else [0, 307, 1009]
    own = x[ends[rank] : ends[rank + 1]]
    weight = torch.arange(1009) % 2 + 1
    settings: dict[str, Any] = {"distributed": world > 1, "batch_size": 101, "n_init": 2}
    model = MiniBatchKMeans(5, **settings).fit(own)
    # four centers start where no row is: they are moved to rows of either rank
    stream = MiniBatchKMeans(7, init=torch.cat([x[:3], torch.full((4, 7), 1e4)]), **settings)
    for part in ([0, 103, 211], [0, 103, 103], [0, 1, 211]):
        cut = [part[0], part[2]] if world == 1 else part
        stream.partial_fit(x[cut[rank] : cut[rank + 1]], sample_weight=weight[cut[rank] : cut[rank + 1]])
    facts = [model.inertia_, float(model.n_steps_), stream.inertia_]
    return [model.labels_, model.cluster_centers_, stream.cluster_centers_, stream.counts_, torch.tensor(facts)]


def test_batches_spread_over_ranks_move_the_centers_as_on_one() -> None:
    labels, *expected = learn(0, 1)
    first, second = run_ranks(2, learn)
    assert torch.equal(torch.cat([first[0], second[0]]), labels)
    assert all(torch.equal(one, other) for one, other in zip(first[1:], second[1:], strict=True))
    assert all(close(one, other, 1e-5) for one, other in zip(first[1:], expected, strict=True))
