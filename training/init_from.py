"""`run.init_from`: a run that goes on from what another one has learnt, as a second stage does from its first."""

from pathlib import Path

from torch import Tensor

from data.views import Views
from models.state import FeatureShard
from training.build import Run, build_method
from training.checkpoint import load_checkpoint, restore
from training.embed import map_rows
from training.run_dir import find_run
from training.settings import load_settings
from utils import distributed
from utils.config import compose
from utils.draws import derived_seed
from utils.errors import UserError


def adopt_clusters(run: Run, path: Path) -> str:
    """Give the method of `run` the clusters of the run in `path`, as its newest good checkpoint has them. Collective.

    The encoder's weights are in place already. Returns what to tell the user.

    Raises:
        UserError: another number of clusters, or a run that has no clusters yet.
    """
    directory, key = find_run(path), "run.init_from"
    stored = load_settings(compose([directory.config]), distributed.world())
    source, device = run.source, run.device
    dtype = next(run.method.parameters()).dtype
    views = Views(stored.views, source.image_shape, source.mean, source.std, dtype)
    checkpoint = load_checkpoint(directory.checkpoints, device, run.told.append)
    n_clusters = _n_clusters(checkpoint["state"], str(path))
    if n_clusters != run.method.n_clusters:
        problem = f"{path} has {n_clusters} clusters, this run {run.method.n_clusters}"
        raise UserError(key, problem, f"set estep.n_clusters={n_clusters}")
    other, _ = build_method(stored, views.output_shape, source, n_clusters, device, dtype, fresh=False)
    state = restore(checkpoint, other, None)
    assert state is not None
    rows, precision = run.store.shard(distributed.rank(), distributed.world()), run.settings.optim.precision

    def clusters_of(images: Tensor) -> Tensor:
        return other.assign(images, state)

    probabilities = map_rows(clusters_of, other, run.store, views, rows, precision)  # (n, K)
    features = map_rows(run.method.encode, run.method, run.store, run.views, rows, precision)  # (n, feature_dim)
    seed = derived_seed(run.settings.run.seed, "adopt")
    return run.method.adopt(other, state, FeatureShard(rows, features, source.n_rows, seed, [probabilities]))


def _n_clusters(state: dict[str, Tensor] | None, path: str) -> int:
    if state is None or state["centers"] is None:
        raise UserError("run.init_from", f"{path} has no clusters yet", "let it finish, or take another run")
    return len(state["centers"])
