import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from evaluation.scores import (
    cluster_sizes,
    embedding_clusters,
    epoch_scores,
    external_scores,
    scored_state,
    scores_of_other_k,
    table,
)
from models.state import ClusterState, FeatureShard
from tests.evaluation.fakes import fake_run
from utils.clock import Clock


def test_renamed_clusters_score_one() -> None:
    truth = torch.arange(23) % 3
    assert external_scores((truth + 1) % 3 + 4, truth) == pytest.approx({"acc": 1.0, "nmi": 1.0, "ari": 1.0})


def test_surplus_clusters_and_missing_classes_count_as_errors() -> None:
    truth = torch.tensor([0, 0, 0, 0, 1, 1])
    assert external_scores(torch.tensor([0, 0, 1, 2, 3, 3]), truth)["acc"] == pytest.approx(4 / 6)
    assert external_scores(torch.zeros(6, dtype=torch.int64), truth)["acc"] == pytest.approx(4 / 6)


def test_rows_of_unknown_truth_are_left_out() -> None:
    truth = torch.tensor([0, 0, -1, 1, -1, 1])
    assert external_scores(torch.tensor([2, 2, 0, 0, 1, 0]), truth)["acc"] == 1.0


def test_sizes_count_empty_clusters() -> None:
    labels = torch.tensor([0, 0, 3, 3, 3, -1])
    assert cluster_sizes(labels, 5) == {"used": 2, "smallest": 0, "largest": 3}


def test_an_epochs_own_state_is_scored() -> None:
    run = fake_run()
    wrong = ClusterState(labels=torch.zeros(101, dtype=torch.int64))
    assert epoch_scores(run, wrong, run.clock)["acc"] == pytest.approx(26 / 101)


def test_a_warmup_without_state_is_scored_by_its_present_features() -> None:
    run = fake_run()
    assert epoch_scores(run, None, run.clock)["acc"] == 1.0
    assert run.state is None


def test_a_warmup_without_state_is_read_out_as_the_method_does() -> None:
    run = fake_run()
    wrong = ClusterState(labels=torch.zeros(101, dtype=torch.int64))
    seen = []

    def e_step(shard: FeatureShard, state: ClusterState | None, clock: Clock) -> ClusterState:
        seen.append((len(shard.rows), state, clock))
        return wrong

    run.method.e_step = e_step
    assert scored_state(run, None, run.clock) is wrong
    assert seen == [(101, None, run.clock)]


def test_the_embedding_is_clustered_whatever_the_methods_own_read_out() -> None:
    run = fake_run()
    run.method.e_step = None
    labels, name = embedding_clusters(run, 4)
    assert external_scores(labels, run.source.truth)["acc"] == 1.0
    assert name == "KMeans"


def test_no_ground_truth_gives_no_scores() -> None:
    run = fake_run(labelled=False)
    assert epoch_scores(run, None, run.clock) == {}


def test_a_state_is_made_only_where_there_is_none() -> None:
    run = fake_run()
    state = scored_state(run, None, run.clock)
    assert scored_state(run, state, run.clock) is state


RESULT = {
    "data": "digits",
    "protocol": "train+test, 1,797 rows",
    "method": "propos",
    "name": "propos",
    "features": "target projection",
    "n_clusters": 10,
    "epoch": 100.0,
    "finished": True,
    "seed": 3,
    "scores": {"acc": 0.97, "nmi": 0.9312, "ari": 0.9},
    "embedding": None,
    "assigned": None,
    "baselines": [
        {"name": "KMeans", "features": "pixels", "scores": {"acc": 0.793, "nmi": 0.742, "ari": 0.668}},
        {"name": "KMeans", "features": "pixels, PCA-50", "scores": {"acc": 0.79, "nmi": 0.74, "ari": 0.66}},
    ],
    "knn": {
        "accuracy": 0.985,
        "features": "target encoder",
        "protocol": "360 queries, bank of 1,437",
        "neighbors": 20,
        "temperature": 0.07,
    },
    "linear": {
        "accuracy": 0.975,
        "features": "target encoder",
        "protocol": "360 test rows, fitted to 1,437",
        "l2": 0.001,
        "chosen": "of 5 on 143 held-out rows",
    },
    "retrieval": {
        "recall@1": 0.98,
        "recall@5": 0.99,
        "map": 0.9,
        "features": "target projection",
        "protocol": "360 queries, bank of 1,437",
    },
    "clusters": {"used": 10, "smallest": 141, "largest": 201},
}


def test_table_shows_every_number_with_its_protocol() -> None:
    assert table(RESULT).splitlines() == [
        "digits: train+test, 1,797 rows; K = 10, epoch 100, seed 3",
        "        features              ACC     NMI     ARI",
        "propos  target projection  0.9700  0.9312  0.9000",
        "KMeans  pixels             0.7930  0.7420  0.6680",
        "KMeans  pixels, PCA-50     0.7900  0.7400  0.6600",
        "kNN accuracy 0.9850: target encoder, 360 queries, bank of 1,437, k = 20, temperature 0.07",
        "linear probe 0.9750: target encoder, 360 test rows, fitted to 1,437, L2 0.001, best of 5 on 143 held-out rows",
        "retrieval: recall@1 0.9800, recall@5 0.9900, mAP 0.9000: target projection, 360 queries, bank of 1,437",
        "10 of 10 clusters used, 141 to 201 images each",
    ]


def test_table_shows_a_cluster_heads_other_read_out_below_its_own() -> None:
    embedding = {"name": "KMeans", "features": "projection", "scores": {"acc": 0.5, "nmi": 0.25, "ari": 0.125}}
    lines = table({**RESULT, "name": "cc", "features": "cluster head", "embedding": embedding}).splitlines()
    assert lines[2:4] == [
        "cc      cluster head    0.9700  0.9312  0.9000",
        "KMeans  projection      0.5000  0.2500  0.1250",
    ]


def test_table_says_what_is_missing() -> None:
    missing = {"scores": None, "baselines": [], "knn": None, "linear": None, "retrieval": None, "finished": False}
    text = table({**RESULT, **missing})
    assert "(not finished)" in text
    assert "no ground truth" in text
    assert "ACC" not in text and "kNN" not in text and "linear" not in text and "retrieval" not in text


def test_ami_and_purity_stand_beside_the_others_where_k_is_not_the_number_of_classes() -> None:
    truth, labels = torch.arange(24) % 3, torch.arange(24) % 6
    assert scores_of_other_k(torch.arange(24) % 3, truth, 3) == {}
    truth[5] = -1
    other = scores_of_other_k(labels, truth, 6)
    expected = adjusted_mutual_info_score(truth[truth >= 0], labels[truth >= 0])
    assert other == pytest.approx({"purity": 1.0, "ami": expected})
    line = table({**RESULT, "scores": {**RESULT["scores"], **other}}).splitlines()[1]
    assert line.split() == ["features", "ACC", "NMI", "ARI", "AMI", "PURITY"]
