"""All scores of a run, with their protocol: a table, evaluation.json, assignments.csv, clusters.png. Trains nothing."""

import sys
from typing import Any

from torch import Tensor

from evaluation.knn import score_knn
from evaluation.linear_probe import score_linear
from evaluation.picture import write_picture
from evaluation.pixel_baseline import cluster_pixels
from evaluation.predict import assign_rows, write_assignments
from evaluation.retrieval import score_retrieval
from evaluation.scores import (
    cluster_sizes,
    embedding_clusters,
    external_scores,
    scored_state,
    scores_of_other_k,
    table,
)
from training.build import Run
from utils import distributed
from utils.files import write_json


def evaluate(run: Run) -> dict[str, Any]:
    """The scores of the run's present state; rank 0 prints them and writes the files. Collective.

    Nothing of the run changes: neither weights, nor its state, nor its checkpoints. A run without a directory
    (`run.debug`) writes nothing. Returned on every rank: what evaluation.json holds.
    """
    state = scored_state(run, run.state, run.clock)
    assert state.labels is not None
    features = "cluster head" if run.method.heads else run.method.embed_name
    embedding = None
    truth = run.source.read_truth(None)
    if truth is not None and run.method.heads:
        labels, name = embedding_clusters(run, run.method.n_clusters)
        embedding = {"name": name, "features": run.method.embed_name, "scores": external_scores(labels, truth)}
    name = run.settings.method.name
    result = {**judge(run, state.labels, run.method.n_clusters, name, features), "embedding": embedding}
    if run.directory is not None:
        found = assign_rows(run, state)
        if distributed.is_main():
            write_assignments(run, found, run.directory.path / "assignments.csv")
            write_picture(run, found, run.directory.path / "clusters.png")
            write_json(run.directory.path / "evaluation.json", result)
    if distributed.is_main():
        print(table(result), flush=True)
    return result


def judge(run: Run, labels: Tensor, n_clusters: int, name: str, features: str) -> dict[str, Any]:
    """All scores of the run's images in these K clusters, and of its features, with their protocol. Collective.

    labels: (N,) the cluster of each row; name, features: by what it was found, and in what, in words for the table.
    """
    truth = run.source.read_truth(None)
    scores, baselines = None, []
    if truth is not None:
        scores = external_scores(labels, truth) | scores_of_other_k(labels, truth, n_clusters)
        for pixel_labels, pixels in cluster_pixels(run, n_clusters):
            baselines.append({"name": "KMeans", "features": pixels, "scores": external_scores(pixel_labels, truth)})
    return {
        "data": run.source.name,
        "protocol": run.source.protocol,
        "rows": run.source.n_rows,
        "method": run.settings.method.name,
        "name": name,
        "features": features,
        "n_clusters": n_clusters,
        "epoch": run.clock.epoch,
        "finished": run.clock.finished,
        "seed": run.settings.run.seed,
        "command": " ".join(sys.argv),
        "scores": scores,
        "embedding": None,
        "assigned": None,
        "baselines": baselines,
        "knn": score_knn(run),
        "linear": score_linear(run),
        "retrieval": score_retrieval(run),
        "clusters": cluster_sizes(labels, n_clusters),
    }
