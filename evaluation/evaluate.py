"""All scores of a run, with their protocol: a table, evaluation.json, assignments.csv, clusters.png. Trains nothing."""

import sys
from typing import Any

from evaluation.knn import score_knn
from evaluation.linear_probe import score_linear
from evaluation.picture import write_picture
from evaluation.pixel_baseline import cluster_pixels
from evaluation.predict import assign_rows, write_assignments
from evaluation.scores import cluster_sizes, embedding_clusters, external_scores, scored_state, table
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
    truth = run.source.read_truth(None)
    n_clusters, seed = run.method.n_clusters, run.settings.run.seed
    scores, embedding, baselines = None, None, []
    if truth is not None:
        scores = external_scores(state.labels, truth)
        for labels, features in cluster_pixels(run, n_clusters):
            baselines.append({"name": "KMeans", "features": features, "scores": external_scores(labels, truth)})
        if run.method.heads:
            labels, name = embedding_clusters(run)
            embedding = {"name": name, "features": run.method.embed_name, "scores": external_scores(labels, truth)}
    result = {
        "data": run.source.name,
        "protocol": run.source.protocol,
        "rows": run.source.n_rows,
        "method": run.settings.method.name,
        "features": "cluster head" if run.method.heads else run.method.embed_name,
        "n_clusters": n_clusters,
        "epoch": run.clock.epoch,
        "finished": run.clock.finished,
        "seed": seed,
        "command": " ".join(sys.argv),
        "scores": scores,
        "embedding": embedding,
        "baselines": baselines,
        "knn": score_knn(run),
        "linear": score_linear(run),
        "clusters": cluster_sizes(state.labels, n_clusters),
    }
    if run.directory is not None:
        found = assign_rows(run, state)
        if distributed.is_main():
            write_assignments(run, found, run.directory.path / "assignments.csv")
            write_picture(run, found, run.directory.path / "clusters.png")
            write_json(run.directory.path / "evaluation.json", result)
    if distributed.is_main():
        print(table(result), flush=True)
    return result
