"""KMeans against scikit-learn's numbers (float64 unless said; compared at 1e-9), and its manners."""

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.torch_clustering.made import close, made_rows, numbers
from torch_clustering import ConvergenceWarning, KMeans
from torch_clustering._centers import unit_rows
from torch_clustering._checks import make_shard
from torch_clustering.engine import seen_from_mean

NUMBERS = numbers("kmeans")
CASES = {case["name"]: case for case in NUMBERS["cases"]}
DTYPES = [torch.float64, torch.float32]


def fit_case(case: dict, dtype: torch.dtype, max_iter: int | None = None) -> tuple[KMeans, Tensor]:
    x = made_rows(case["N"], case["d"], case["s"])
    init = x[case["init_rows"]] if "init_rows" in case else torch.tensor(case["init_centers"], dtype=torch.float64)
    i = torch.arange(len(x))
    weight = {"sample_weight": 1 + i % 3, "zero weights": (i % 5 != 0).double()}
    chosen = next((w for name, w in weight.items() if case["name"].startswith(name)), None)
    model = KMeans(len(init), init=init, tol=case["tol"], max_iter=max_iter or case["max_iter"])
    return model.fit(x.to(dtype), sample_weight=chosen), x.to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_lloyd_equals_the_stored_labels_centers_inertia_and_passes(name: str, dtype: torch.dtype) -> None:
    expected, tolerance = CASES[name]["expect"], 1e-9 if dtype == torch.float64 else 1e-6
    model, x = fit_case(CASES[name], dtype)
    assert model.labels_.tolist() == expected["labels"]
    assert model.n_iter_ == expected["n_iter"]
    assert close(model.cluster_centers_, expected["centers"], tolerance)
    assert close(model.inertia_, expected["inertia"], tolerance)
    assert model.cluster_centers_.dtype == dtype
    assert torch.equal(model.predict(x), model.labels_)


@pytest.mark.parametrize("name", [name for name in CASES if "first_pass" in CASES[name]])
def test_empty_clusters_receive_the_farthest_rows_in_the_first_pass(name: str) -> None:
    expected = CASES[name]["first_pass"]
    model, _ = fit_case(CASES[name], torch.float64, max_iter=1)
    assert model.labels_.tolist() == expected["labels"]
    assert close(model.cluster_centers_, expected["centers"]) and close(model.inertia_, expected["inertia"])
    assert model.n_iter_ == expected["n_iter"]
    assert model.n_relocated_ == len(CASES[name]["init_centers"]) - 3


@pytest.mark.parametrize("name", [name for name in CASES if "abs_tol" in CASES[name]])
def test_the_tolerance_is_a_share_of_the_mean_variance(name: str) -> None:
    case = CASES[name]
    shard = make_shard(made_rows(case["N"], case["d"], case["s"]), None, 1, None)
    assert close(case["tol"] * seen_from_mean(shard)[1], case["abs_tol"])


def test_predict_transform_and_score_equal_the_stored_numbers() -> None:
    stored = NUMBERS["predict"]
    query = made_rows(stored["query"]["N"], stored["query"]["d"], stored["query"]["s"])
    model, _ = fit_case(CASES[stored["fit_case"]], torch.float64)
    assert model.predict(query).tolist() == stored["labels"]
    assert close(model.transform(query), stored["transform"])
    assert close(model.score(query), stored["score"])
    assert close(model.score(query, sample_weight=torch.full((7,), 3.0)), 3 * stored["score"])


def test_spherical_kmeans_equals_the_stored_numbers() -> None:
    stored = NUMBERS["spherical"]
    x = made_rows(60, 5)
    lengths = 1.0 + torch.arange(60, dtype=torch.float64)[:, None] % 7  # a direction is all that counts
    model = KMeans(4, metric="cosine", init=x[stored["init_rows"]], tol=0).fit(x * lengths)
    expected = stored["expect"]
    assert model.labels_.tolist() == expected["labels"]
    assert close(model.cluster_centers_, expected["centers"])
    assert close(model.inertia_, expected["objective_sum_1_minus_cos"])
    assert model.n_iter_ == expected["passes_incl_confirming"]
    assert close(model.transform(x).gather(1, model.labels_[:, None]).sum(), expected["objective_sum_1_minus_cos"])
    assert close(model.score(x * lengths), -expected["objective_sum_1_minus_cos"])
    assert close(2 * model.inertia_, expected["squared_chord_inertia"])


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_far_from_the_origin_keep_the_labels_of_float64(dtype: torch.dtype) -> None:
    stored = NUMBERS["cancellation"]
    x = (1000 + 0.01 * made_rows(40, 5)).to(dtype)
    model = KMeans(4, init=x[stored["init_rows"]], tol=0).fit(x)
    name = "inertia_float64_input" if dtype == torch.float64 else "inertia_float32_input"
    assert model.labels_.tolist() == stored["labels"]
    # float32 centres near 1000 are themselves rounded by 3e-5, against a spread of 1e-2
    assert close(model.inertia_ / stored[name], 1.0, 1e-9 if dtype == torch.float64 else 1e-3)


def test_equal_distances_go_to_the_lowest_center() -> None:
    model = KMeans(2)
    model.cluster_centers_ = torch.tensor(NUMBERS["ties"]["centers"])
    assert model.predict(NUMBERS["ties"]["X"]).tolist() == NUMBERS["ties"]["labels"]


def test_fewer_distinct_rows_than_clusters_warn_and_leave_a_cluster_without_rows() -> None:
    stored = NUMBERS["fewer_distinct_points_than_K"]
    with pytest.warns(ConvergenceWarning, match="2 of 3 clusters"):
        model = KMeans(3, init=torch.tensor(stored["init_centers"])).fit(torch.tensor(stored["X"]))
    assert len(model.labels_.unique()) == stored["distinct_labels"] and model.inertia_ == stored["inertia"]
    assert bool(model.cluster_centers_.isfinite().all())


def test_seeding_of_too_few_distinct_rows_warns_with_both_numbers() -> None:
    with pytest.warns(ConvergenceWarning) as caught:
        KMeans(3).fit(NUMBERS["fewer_distinct_points_than_K"]["X"])
    assert "2 distinct rows for 3 clusters" in str(caught[0].message)


def test_relocation_leaves_a_row_that_is_alone_in_its_cluster() -> None:
    # the farthest row (12) is alone in cluster 1; cluster 2 must take the next one (3) from cluster 0
    x = torch.tensor([[0.0], [1.0], [3.0], [12.0]])
    model = KMeans(3, init=torch.tensor([[0.0], [20.0], [99.0]]), max_iter=1).fit(x)
    assert model.cluster_centers_.flatten().tolist() == [0.5, 12.0, 3.0]


def test_relocation_takes_no_row_of_weight_zero() -> None:
    x, weight = torch.tensor([[0.0], [1.0], [3.0], [12.0]]), [1, 1, 1, 0]
    model = KMeans(2, init=torch.tensor([[0.0], [99.0]]), max_iter=1).fit(x, sample_weight=weight)
    assert model.cluster_centers_.flatten().tolist() == [0.5, 3.0]


def test_more_restarts_keep_the_least_inertia_and_the_first_among_equals() -> None:
    x = made_rows(60, 5)
    single = [KMeans(7, init="random", random_state=2, n_init=n).fit(x).inertia_ for n in (1, 5)]
    assert single[1] < single[0]
    easy = torch.tensor([[0.0], [0.1], [10.0], [10.1], [50.0], [50.1]])
    labels = [KMeans(3, n_init=n).fit(easy).labels_.tolist() for n in (1, 13)]
    assert labels[0] == labels[1]  # not a permutation found later


def test_settings_decide_and_global_generators_stay_untouched() -> None:
    x = made_rows(60, 5)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    first, again, other = (KMeans(7, random_state=seed, max_iter=1).fit(x) for seed in (5, 5, 6))
    assert torch.equal(first.cluster_centers_, again.cluster_centers_)
    assert not torch.equal(first.cluster_centers_, other.cluster_centers_)
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == np.random.get_state()[1].tolist()


def test_inertia_never_rises_with_more_passes() -> None:
    x = made_rows(60, 5).float()
    inertias = [KMeans(7, init=x[:7], tol=0, max_iter=passes).fit(x).inertia_ for passes in range(1, 8)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in zip(inertias, inertias[1:], strict=False))


def test_one_cluster_is_the_mean_and_as_many_clusters_as_rows_leave_no_inertia() -> None:
    x = made_rows(13, 5)
    assert close(KMeans(1).fit(x).cluster_centers_[0], x.mean(0))
    model = KMeans(13).fit(x)
    assert model.inertia_ == 0.0 and len(model.labels_.unique()) == 13


def test_rows_of_zeros_get_label_zero_and_no_influence_on_the_sphere() -> None:
    x = made_rows(23, 5)
    start = x[:3]
    alone = KMeans(3, metric="cosine", init=start).fit(x)
    with pytest.warns(ConvergenceWarning, match="2 of 25 rows are 0"):
        both = torch.cat([x, torch.zeros(2, 5, dtype=x.dtype)])
        model = KMeans(3, metric="cosine", init=start).fit(both)
    assert close(model.score(both), -model.inertia_) and model.predict(both)[-2:].tolist() == [0, 0]
    assert model.labels_.tolist() == [*alone.labels_.tolist(), 0, 0]
    assert torch.equal(model.cluster_centers_, alone.cluster_centers_) and model.inertia_ == alone.inertia_
    assert close(model.cluster_centers_.norm(dim=1), torch.ones(3))


def test_weights_count_as_repeated_rows() -> None:
    x = made_rows(29, 5)
    weight = 1 + torch.arange(29) % 3
    repeated = KMeans(3, init=x[:3], tol=0).fit(x.repeat_interleave(weight, 0))
    weighted = KMeans(3, init=x[:3], tol=0).fit(x, sample_weight=weight)
    assert close(weighted.cluster_centers_, repeated.cluster_centers_) and close(weighted.inertia_, repeated.inertia_)


def test_given_centers_are_one_start_and_names_restart_as_often_as_said() -> None:
    x, calls = made_rows(29, 5), []

    def first_rows(rows: Tensor, n_clusters: int, random_state: np.random.RandomState) -> Tensor:
        calls.append(random_state.randint(1000))
        return rows[:n_clusters]

    by_function, given = KMeans(3, init=first_rows).fit(x), KMeans(3, init=x[:3], n_init=7).fit(x)
    assert torch.equal(by_function.cluster_centers_, given.cluster_centers_)
    assert len(calls) == 10 and len(set(calls)) > 1  # each restart has another seed
    KMeans(3, init=first_rows, n_init=2).fit(x)
    assert len(calls) == 12
    assert KMeans(7, init="random").fit(x).inertia_ == KMeans(7, init="random", n_init=10).fit(x).inertia_


def test_a_warm_start_goes_on_from_the_last_centers_of_the_same_shape() -> None:
    x = made_rows(60, 5)
    whole = KMeans(7, init=x[:7], tol=0).fit(x).fit(x)  # without it every `fit` starts anew
    model = KMeans(7, init=x[:7], tol=0, max_iter=2, warm_start=True).fit(x)
    model.set_params(max_iter=300).fit(x)
    assert torch.equal(model.labels_, whole.labels_) and model.n_iter_ == whole.n_iter_ - 2
    assert len(model.set_params(n_clusters=5, init=x[:5]).fit(x).cluster_centers_) == 5


def test_every_kind_of_random_state_decides_the_start() -> None:
    x = made_rows(60, 5)

    def start(random_state: object) -> Tensor:
        return KMeans(7, init="random", n_init=1, max_iter=1, random_state=random_state).fit(x).cluster_centers_

    for kind in (np.random.default_rng, np.random.RandomState, np.int64):
        assert torch.equal(start(kind(3)), start(kind(3)))
        assert not torch.equal(start(kind(3)), start(kind(4)))
    draws = np.random.default_rng(3)
    assert not torch.equal(start(draws), start(draws)) and not torch.equal(start(None), start(None))


def test_rows_of_length_one_are_not_copied_and_others_are_brought_to_it() -> None:
    x = unit_rows(made_rows(23, 5).float())
    assert unit_rows(x) is x
    mixed = torch.cat([x, 3e30 * x, 1e-30 * x, torch.zeros(2, 5)])
    torch.testing.assert_close(unit_rows(mixed), torch.cat([x, x, x, torch.zeros(2, 5)]))
    assert torch.equal(unit_rows(mixed)[:23], x)  # whatever stands beside it


def test_no_weights_take_no_memory_and_large_numbers_are_finite() -> None:
    shard = make_shard(torch.full((13, 5), 3e38), None, 1, None)
    assert shard.weights.stride() == (0,) and shard.weights.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "rows", "message"),
    [
        ({"n_clusters": 7}, torch.zeros(5, 3), "5 rows for 7 clusters"),
        ({"n_clusters": 2}, torch.tensor([[0.0], [float("nan")], [1.0]]), "NaN or infinity"),
        ({"n_clusters": 2}, torch.tensor([[0.0], [float("inf")], [-float("inf")]]), "NaN or infinity"),
        ({"n_clusters": 0}, torch.rand(5, 3), "n_clusters=0"),
        ({"n_clusters": 2.5}, torch.rand(5, 3), "n_clusters=2.5"),
        ({"n_clusters": 2, "max_iter": 0}, torch.rand(5, 3), "max_iter=0"),
        ({"n_clusters": 2, "n_init": "many"}, torch.rand(5, 3), "n_init=many"),
        ({"n_clusters": 2, "random_state": -1}, torch.rand(5, 3), "random_state=-1"),
        ({"n_clusters": 2, "algorithm": "fast"}, torch.rand(5, 3), "algorithm='fast'.*'auto', 'lloyd', 'elkan'"),
        ({"n_clusters": 2, "layout": "split"}, torch.rand(5, 3), "layout='split'.*'sharded', 'replicated'"),
        ({"n_clusters": 2, "bounds_memory": -1}, torch.rand(5, 3), "bounds_memory=-1"),
        ({"n_clusters": 2, "distributed": True}, torch.rand(5, 3), "init_process_group"),
        ({"n_clusters": 2, "init": torch.full((2, 3), torch.nan)}, torch.rand(5, 3), "NaN"),
        ({"n_clusters": 2}, torch.rand(5, 0), r"0 feature\(s\)"),
        ({"n_clusters": 2}, torch.rand(5, 3, dtype=torch.complex64), "Complex"),
        ({"n_clusters": 2}, np.array([["a"], ["b"]]), "numbers"),
        ({"n_clusters": 2, "init": torch.zeros(3, 3)}, torch.rand(5, 3), r"\(3, 3\).*\(2, 3\)"),
        ({"n_clusters": 2, "metric": "manhattan"}, torch.rand(5, 3), "manhattan.*'euclidean', 'cosine'"),
        ({"n_clusters": 2, "init": "kmeans"}, torch.rand(5, 3), "'kmeans'.*'k-means[+][+]', 'plain"),
        ({"n_clusters": 2, "tol": -1.0}, torch.rand(5, 3), "tol=-1.0"),
        ({"n_clusters": 2, "n_init": 0}, torch.rand(5, 3), "n_init=0"),
        ({"n_clusters": 2}, torch.rand(5), r"\(5,\)"),
        ({"n_clusters": 2, "metric": "cosine"}, torch.zeros(5, 3), "5 of 5 rows are 0"),
    ],
)
def test_impossible_input_is_refused_with_its_value(arguments: dict, rows: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        KMeans(**arguments).fit(rows)


def test_wrong_weights_and_a_wrong_width_are_refused() -> None:
    x = made_rows(13, 5)
    for weight in (torch.ones(12), -torch.ones(13), torch.full((13,), float("inf"))):
        with pytest.raises(ValueError, match="sample_weight"):
            KMeans(3).fit(x, sample_weight=weight)
    with pytest.raises(ValueError, match="weight zero"):
        KMeans(3).fit(x, sample_weight=torch.zeros(13))
    with pytest.raises(ValueError, match="4 features.* 5"):
        KMeans(3).fit(x).predict(x[:, :4])


def test_rows_of_small_weight_count_as_rows_when_an_empty_cluster_takes_one() -> None:
    x = torch.tensor([[0.0], [1.0], [10.0], [14.0]])
    model = KMeans(3, init=[[0.5], [12.0], [100.0]]).fit(x, sample_weight=[0.25] * 4)
    assert model.n_relocated_ == 1 and model.labels_.tolist() == [0, 0, 2, 1]
