"""`run.init_from`: a run that goes on from what another one has learnt, as a second stage does from its first."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from data.views import Views
from models.method import Method
from models.state import ClusterState, FeatureShard
from training.build import Run, build_method
from training.checkpoint import load_checkpoint, restore
from training.embed import map_rows
from training.run_dir import find_run
from training.settings import Settings, load_settings
from utils import distributed
from utils.config import compose
from utils.config_docs import in_yaml
from utils.draws import derived_seed
from utils.errors import UserError

KEY = "run.init_from"
MUST_AGREE = (("encoder", "name"), ("encoder", "stem"), ("views", "sobel"))  # else the weights fit in part, or mislead


def check_first_run(settings: Settings, path: Path) -> None:
    """Raise UserError where no run lies in `path`, or none that a run with `settings` could go on from."""
    directory, stored = find_run(path), stored_settings(path)
    if not (directory.checkpoints / "last.pt").exists():
        raise UserError(KEY, f"{path} has no checkpoint yet", "let it finish an epoch, or take another run")
    own, its = settings.to_values(), stored.to_values()
    for section, key in MUST_AGREE:
        here, there = (in_yaml(values[section][key]) for values in (own, its))
        if here != there:
            name = f"{section}.{key}"
            raise UserError(KEY, f"{path} has {name}={there}, this run {here}", f"set {name}={there}")


def adopt_clusters(run: Run, path: Path) -> str:
    """Give the method of `run` the clusters of the run in `path`, as its newest good checkpoint has them. Collective.

    The encoder's weights are in place already. Returns what to tell the user.

    Raises:
        UserError: another number of clusters, a run that has no clusters yet, or one that does not fit these images.
    """
    stored, source, precision = stored_settings(path), run.source, run.settings.optim.precision
    dtype = next(run.method.parameters()).dtype
    views = Views(stored.views, source.image_shape, source.mean, source.std, dtype)
    other, state = _first_method(run, path, stored, views, dtype)
    rows = run.store.shard(distributed.rank(), distributed.world())

    def clusters_of(images: Tensor) -> Tensor:
        return other.assign(images, state)

    probabilities = map_rows(clusters_of, other, run.store, views, rows, precision)  # (n, K)
    features = map_rows(run.method.encode, run.method, run.store, run.views, rows, precision)  # (n, feature_dim)
    seed = derived_seed(run.settings.run.seed, "adopt")
    told = run.method.adopt(other, state, FeatureShard(rows, features, source.n_rows, seed, [probabilities]))
    return f"clusters of {path}: {told}"


def stored_settings(path: Path) -> Settings:
    """The settings of the run in `path`, whatever number of ranks, BatchNorm groups and mirrors it had."""
    composed = compose([find_run(path).config], ["log.wandb=false", "log.tensorboard=false"])
    stored = load_settings(composed, world=1)
    return replace(stored, method=stored.method.model_copy(update={"bn_groups": 1}))


def _first_method(
    run: Run, path: Path, stored: Settings, views: Views, dtype: torch.dtype
) -> tuple[Method, ClusterState]:
    """The method of the run in `path` and its clusters, for the images of `run`. Collective."""
    checkpoint = load_checkpoint(find_run(path).checkpoints, run.device, run.told.append)
    centers = (checkpoint["state"] or {}).get("centers")
    if centers is None:
        raise UserError(KEY, f"{path} has no clusters yet", "let it finish, or take another run")
    if len(centers) != run.method.n_clusters:
        problem = f"{path} has {len(centers)} clusters, this run {run.method.n_clusters}"
        raise UserError(KEY, problem, f"set estep.n_clusters={len(centers)}")
    method, _ = build_method(stored, views.output_shape, run.source, len(centers), run.device, dtype, fresh=False)
    try:
        state = restore(checkpoint, method, None)
    except RuntimeError as error:  # torch lists the tensors of another shape
        problem = f"{path} does not fit these images ({str(error).splitlines()[-1].strip()})"
        raise UserError(KEY, problem, "take a run on as many images of the same kind") from None
    assert state is not None
    return method, state
