"""A trained network on other images, or in another number of clusters: what it is worth elsewhere. Trains nothing."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.sources import SOURCES
from data.store import DataConfig, Store, open_source
from data.views import Views
from evaluation.evaluate import evaluate, judge
from evaluation.load_run import open_unseen
from evaluation.scores import embedding_clusters, external_scores, table
from training.begin import open_run
from training.build import Run
from training.embed import map_rows
from training.features import feed_features
from training.feed import Feed
from training.run_dir import RunDirectory
from training.settings import Settings, load_settings
from utils import distributed
from utils.config import compose, diff_keys
from utils.errors import UserError, did_you_mean
from utils.files import write_json

MAY_DIFFER = ("data.", "eval.", "estep.n_clusters")  # all else made the network what it is
OTHER_ROWS = ("name", "split", "image_size", "resize")  # keys of data; data.root alone: the same images, moved
OWN_IMAGES = ("folder", "list", "shards")


@dataclass(frozen=True)
class Question:
    """What a run is to be judged on.

    own: the settings that it has; asked: those that it is to be judged with. other: `asked.data` are not the images
    that it was trained on.
    """

    own: Settings
    asked: Settings
    other: bool


def ask(directory: RunDirectory, data: str | None, words: list[str]) -> Question:
    """A question to a run. data: a data set's name or a folder of images; None: its own. words: `section.key=value`.

    Raises:
        UserError: no such data set, or a key that a trained network cannot change.
    """
    own = _settings(directory, [])
    if own.data.name in OWN_IMAGES and data in SOURCES and data not in OWN_IMAGES:
        words = [f"data.root={DataConfig().root}", *words]  # a folder of own images is no place for downloads
    asked = _settings(directory, [*words_of(data), *words])
    for key in diff_keys(own.to_values(), asked.to_values()):
        if not key.startswith(MAY_DIFFER):
            raise UserError(key, "a trained network keeps it", "data., eval. and estep.n_clusters may differ")
    if data is not None and not any(word.startswith("estep.n_clusters=") for word in words):
        asked = replace(asked, estep=asked.estep.model_copy(update={"n_clusters": None}))  # of the other set's classes
    moved = data is not None and own.data.root != asked.data.root and data not in SOURCES
    other = moved or any(getattr(own.data, key) != getattr(asked.data, key) for key in OTHER_ROWS)
    return Question(own, asked, other)


def answer(directory: RunDirectory, question: Question, device: torch.device) -> dict[str, Any]:
    """Judge a run; rank 0 prints and writes. Collective.

    Its own images in its own number of clusters: `evaluate`, evaluation.json. Otherwise `evaluate_elsewhere`, whose
    JSON has a name of its own in the run's folder: evaluation-DATA-kK.json.
    """
    own, asked = question.own, question.asked
    opened = replace(own, eval=asked.eval, method=own.method.model_copy(update={"bn_groups": 1}))  # for any ranks
    if question.other:
        run = with_images(open_unseen(opened, directory, device), asked)
    else:
        run = _with_its_own(replace(opened, data=asked.data), directory, device)
    n_clusters = asked.estep.n_clusters or (run.source.n_classes if question.other else None) or run.method.n_clusters
    if not question.other and n_clusters == run.method.n_clusters:
        return evaluate(run)
    if n_clusters > run.source.n_rows:
        raise UserError("estep.n_clusters", f"{run.source.n_rows} images for n_clusters={n_clusters}")
    result = evaluate_elsewhere(run, n_clusters)
    if distributed.is_main():
        published = asked.data.name not in OWN_IMAGES
        images = f"{run.source.name}-{asked.data.split}" if published else asked.data.root.resolve().stem
        path = directory.path / f"evaluation-{images}-k{n_clusters}.json"
        write_json(path, result)
        print(f"{table(result)}\nwrote {path}", flush=True)
    return result


def with_images(run: Run, asked: Settings) -> Run:
    """The run with the images that `asked.data` names instead of its own, brought to the size its network takes.

    They are normalised by mean and deviation of the images that the network was trained on. Collective.

    Raises:
        UserError: grey images for a network of coloured ones, or the reverse.
    """
    source = open_source(asked.data)
    has, takes = source.image_shape[0], run.source.image_shape[0]
    if has != takes:
        raise UserError("data.name", f"{source.name} has {has} channels, the network takes {takes}")
    height, width = run.views.output_shape[1:]
    same = source.image_shape[1:] == run.source.image_shape[1:] or height != width
    config = run.views.config if same else run.views.config.model_copy(update={"size": height})
    views = Views(config, source.image_shape, run.source.mean, run.source.std, run.views.dtype)
    store = Store(source, run.device, asked.data)
    feed = Feed(store, views, run.method, [], run.settings.run.seed, 1)
    settings = replace(run.settings, data=asked.data)
    moved = replace(run, settings=settings, source=source, store=store, views=views, feed=feed)
    if run.method.input == "features":
        feed_features(moved)
    return moved


def evaluate_elsewhere(run: Run, n_clusters: int) -> dict[str, Any]:
    """What `evaluate` gives, of clusters found anew: the E-step's algorithm on the embedding of the run's images.

    "assigned": the scores of the run's own clusters, each image assigned to one. Nothing is written. Collective: equal
    on all ranks.
    """
    labels, name = embedding_clusters(run, n_clusters)
    result = judge(run, labels, n_clusters, name, run.method.embed_name)
    truth = run.source.read_truth(None)
    if truth is not None and run.state is not None and run.state.labels is not None:
        own = run.method.n_clusters
        result["assigned"] = {
            "name": run.settings.method.name,
            "features": f"assigned to its own {own} clusters",
            "scores": external_scores(_assigned(run), truth),
        }
    return result


def _with_its_own(settings: Settings, directory: RunDirectory, device: torch.device) -> Run:
    """The run with the images that it was trained on. Raises UserError where there are more or fewer of them now."""
    run = open_run(settings, directory, device)
    if run.state is not None and run.state.labels is not None and len(run.state.labels) != run.source.n_rows:
        problem = f"{run.source.n_rows} images, the run was trained on {len(run.state.labels)}"
        raise UserError("data.root", problem, "for other images: --data NAME or DIR")
    return run


def _settings(directory: RunDirectory, words: list[str]) -> Settings:
    """Of a run and these words, for any number of ranks: no batch is cut, and mirrors of the log are not needed."""
    return load_settings(compose([directory.config], [*words, "log.wandb=false", "log.tensorboard=false"]), world=1)


def _assigned(run: Run) -> Tensor:
    """(N,) the most probable of the run's own clusters of every image. Collective."""
    method, state = run.method, run.state
    assert state is not None

    def most_probable(images: Tensor) -> Tensor:
        return method.assign(images, state).argmax(1).double()

    rows = run.store.shard(distributed.rank(), distributed.world())
    precision = run.settings.optim.precision
    labels = map_rows(most_probable, method, run.feed.store, run.feed.views, rows, precision)
    return distributed.gather_rows(labels).long()


def words_of(data: str | None) -> list[str]:
    """What --data says as words of a config: another set starts from the defaults of what belongs to a set."""
    if data is None:
        return []
    words = ["data.split=train+test", "data.truth=none", "data.image_size=null", "data.resize=crop"]
    if data in SOURCES:
        return [*words, f"data.name={data}"]
    if not Path(data).is_dir():
        raise UserError(f"--data {data}", f"neither a data set nor a folder{did_you_mean(data, SOURCES)}")
    return [*words, "data.name=folder", f"data.root={json.dumps(data, ensure_ascii=False)}"]
