"""A finished run from Python: `run = load_run("runs/NAME")`, `run.predict("photos")`, `run.embed(images)`."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data.sources.remembered import Remembered
from data.store import RowStore
from data.views import Views
from evaluation.given_images import Given, Squares, open_given
from evaluation.predict import Assignments, read_out
from models.state import ClusterState
from training.build import Run, build_run, restore_run
from training.embed import CHUNK, map_rows
from training.features import Progress
from training.init_from import stored_settings
from training.run_dir import RunDirectory, find_run
from training.settings import Settings
from utils import distributed
from utils.errors import UserError
from utils.files import read_json


@dataclass(frozen=True)
class Predictions(Assignments):
    """What a run makes of n images, on the CPU; beside what `Assignments` has:

    paths: n, where each image lies, as it was named; "image 3" for a picture or a row of a tensor. features (n, D)
    float32 (float64 for runs in fp64): its embedding. skipped: what could not be read, by name, with the reason.
    """

    paths: list[str]
    features: Tensor
    skipped: list[tuple[str, str]]


class LoadedRun:
    """A run as its newest checkpoint left it, to look at images with; it is not trained on.

    run: the run itself. Its images are not held in memory; features of them are not computed.
    """

    def __init__(self, run: Run) -> None:
        self.run = run

    def predict(self, images: Given | Squares) -> Predictions:
        """The cluster of each image that can be read, in order; of the training images what assignments.csv says.

        images: a path, a folder, a glob, a list of paths (a CSV or text file), a PIL image, several paths or several
        PIL images, or a (B, C, H, W) uint8 tensor. They are turned upright and brought to the size of the run's own
        images by its `data.resize`.

        Raises:
            UserError: none of them can be read, or the run has no clusters yet.
        """
        state, squares = self.clusters(), self.squares(images)
        found, features = [], []
        for block in squares.blocks(CHUNK):
            probabilities, embedded = self._look(block, state)
            assert probabilities is not None
            place = read_out(probabilities.double(), probabilities.argmax(1), embedded, state)
            found.append((place.cluster, place.confidence, place.distance, place.runner_up))
            features.append(embedded.cpu())
        cluster, confidence, distance, runner_up = (torch.cat(parts).cpu() for parts in zip(*found, strict=True))
        paths = [squares.names[item] for item in squares.kept()]
        return Predictions(
            cluster, confidence, distance, runner_up, paths, features=torch.cat(features), skipped=squares.skipped
        )

    def embed(self, images: Given | Squares) -> Tensor:
        """(n, D) on the CPU: the embedding of each image, that which is clustered. A run needs no clusters for this.

        images: as in `predict`.

        Raises:
            UserError: one of them cannot be read (`predict` goes on without it, and says which).
        """
        squares = self.squares(images)
        features = torch.cat([self._look(block, None)[1].cpu() for block in squares.blocks(CHUNK)])
        if len(features) < len(squares.names):
            name, reason = squares.skipped[-1]
            missing = len(squares.names) - len(features)
            raise UserError(name, reason, f"{missing} of {len(squares.names)} images cannot be read")
        return features

    def embed_training_images(self) -> Tensor:
        """(N, D) on the CPU: the embedding of every row that was clustered, in the order of assignments.csv."""
        run, progress = self.run, Progress(self.run.source.n_rows)

        def embed(images: Tensor) -> Tensor:
            progress.add(len(images))
            return run.method.embed(images)

        rows = torch.arange(run.source.n_rows)
        return map_rows(embed, run.method, run.store, run.views, rows, run.settings.optim.precision).cpu()

    def squares(self, images: Given | Squares) -> Squares:
        """The images as this run's network takes them."""
        if isinstance(images, Squares):
            return images
        return open_given(images, self.run.source.image_shape, self.run.settings.data.resize)

    def clusters(self) -> ClusterState:
        """The clusters of the last E-step. Raises UserError when there was none."""
        run, state = self.run, self.run.state
        if state is None or state.labels is None:
            where = str(run.directory.path) if run.directory else "the run"
            problem = f"no clusters yet: it stopped at epoch {run.clock.epoch:g}, before its first E-step"
            raise UserError(where, problem, f"let it go on: main.py resume {where}")
        return state

    def _look(self, block: Tensor, state: ClusterState | None) -> tuple[Tensor | None, Tensor]:
        """Probabilities (B, K), None without a state, and embedding (B, D) of images (B, C, H, W) of any device.

        In the steps in which a whole data set is looked at: those of `map_rows`, on a method's own kind of input.
        """
        method, precision, rows = self.run.method, self.run.settings.optim.precision, torch.arange(len(block))
        store: RowStore = Block(block.to(self.run.device))
        views: Views | None = self.run.views
        if method.input == "features":
            store, views = Block(map_rows(method.encode, method, store, views, rows, precision)), None
        features = map_rows(method.embed, method, store, views, rows, precision)
        if state is None:
            return None, features
        return map_rows(lambda images: method.assign(images, state), method, store, views, rows, precision), features


class Block(RowStore):
    """A few images, or features of them, on the device."""

    def __init__(self, block: Tensor) -> None:
        self.n_rows, self.device, self._block = len(block), block.device, block

    def images(self, rows: Tensor) -> Tensor:
        """(B, ...) of `rows` (B,)."""
        return self._block.index_select(0, rows.to(self.device))


def load_run(path: str | Path) -> LoadedRun:
    """The run in the folder `path`, on the GPU if there is one.

    Its own images need not be where its config says; what has to do with them alone is refused then. Folders of runs
    that were begun before images.json was written need them.

    Raises:
        UserError: no run there, no checkpoint, or no images where they are needed.
    """
    directory = find_run(Path(path))
    return LoadedRun(open_unseen(stored_settings(directory.path), directory, distributed.pick_device()))


def open_unseen(settings: Settings, directory: RunDirectory, device: torch.device) -> Run:
    """A run as its newest checkpoint left it, to look at other images with. Collective.

    Where the folder has no images.json its own images are opened, but not brought into memory; features of them are not
    computed in any case.
    """
    settings = replace(settings, data=settings.data.model_copy(update={"memory_gib": 0.0}))
    known = Remembered(read_json(directory.images), settings.data) if directory.images.is_file() else None
    run = build_run(settings, device, fresh=False, source=known)
    restore_run(run, directory, goes_on=False)
    return run
