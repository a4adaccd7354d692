"""Several K in one call equal one by one."""

import numpy as np
import pytest
import torch

from tests.torch_clustering.made import made_rows
from torch_clustering import KMeans, kmeans_many

SIZES = [3, 11, 5]


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_several_k_equal_one_by_one(metric: str) -> None:
    x, weight = made_rows(503, 7).float(), 1 + torch.arange(503) % 3
    together = kmeans_many(x, SIZES, sample_weight=weight, metric=metric, n_init=2, random_state=3)
    for k, model in zip(SIZES, together, strict=True):
        alone = KMeans(k, metric=metric, n_init=2, random_state=3).fit(x, sample_weight=weight)
        assert model.n_clusters == k and torch.equal(model.labels_, alone.labels_)
        assert torch.equal(model.cluster_centers_, alone.cluster_centers_)
        assert (model.inertia_, model.n_iter_) == (alone.inertia_, alone.n_iter_)
        assert torch.equal(model.predict(x), model.labels_)


def test_arrays_give_arrays_and_models_know_their_features() -> None:
    (model,) = kmeans_many(made_rows(53, 7).numpy(), [3])
    assert isinstance(model.labels_, np.ndarray) and model.n_features_in_ == 7


@pytest.mark.parametrize(
    ("sizes", "settings", "fault"),
    [
        ([], {}, "give some K and a name"),
        ([2, 3], {"init": torch.rand(2, 7)}, "give some K and a name"),
        ([3, 61], {}, "53 rows for 61 clusters"),
        ([3, 0], {}, "n_clusters=0"),
    ],
)
def test_what_can_not_be_is_refused(sizes: list[int], settings: dict[str, object], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        kmeans_many(made_rows(53, 7), sizes, **settings)
