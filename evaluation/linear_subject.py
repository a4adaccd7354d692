"""What a linear evaluation looks at: a trained encoder, images for it, and which of their labels are used for what."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from data.sources.base import Source
from data.store import Store, open_source
from data.views import Views
from evaluation.label_split import stratified, train_and_test
from evaluation.linear_settings import LinearSettings
from evaluation.load_run import open_unseen
from models.parts.encoders import build_encoder
from models.parts.weights import load_encoder_weights
from training.init_from import stored_settings
from training.run_dir import find_run
from utils.draws import derived_seed
from utils.errors import UserError


@dataclass(frozen=True)
class Rows:
    """Rows by what they are for, int64 on the CPU, all of known class. held: chooses; empty where nothing is chosen.

    truth: (N,) int64 classes of all rows. words: how many there are of each, for tables.
    """

    fitted: Tensor
    held: Tensor
    test: Tensor
    truth: Tensor
    n_classes: int
    words: str


@dataclass(frozen=True)
class Subject:
    """An encoder, (B, C, H, W) to (B, width), and the images that it is judged on.

    views: of clean images and of training, as the network takes them. folder: where results go. trained: in words.
    """

    encoder: nn.Module
    width: int
    source: Source
    store: Store
    views: Views
    rows: Rows
    folder: Path
    trained: str


def open_subject(settings: LinearSettings, device: torch.device) -> Subject:
    """What `settings` name, on `device`; the encoder in eval mode, its weights those of the checkpoint. Collective.

    Raises:
        UserError: no checkpoint there, or images that do not fit it.
    """
    path = settings.method.checkpoint
    assert path is not None
    dtype = torch.float64 if settings.optim.precision == "fp64" else torch.float32
    source = open_source(settings.data)
    mean, std, image_shape = source.mean, source.std, None
    weights, folder, trained = None, path, ""
    if (path / "config.yml").is_file():
        run = open_unseen(stored_settings(path), find_run(path), device)
        weights = run.method.final_encoder.state_dict()
        mean, std, image_shape = run.source.mean, run.source.std, run.views.output_shape
        trained = f"{run.settings.method.name}, {run.source.name}, epoch {run.clock.epoch:g}, "
        trained += run.method.encode_name
        if source.image_shape[0] != run.source.image_shape[0]:
            problem = f"{source.name} has {source.image_shape[0]} channels, {path} takes {run.source.image_shape[0]}"
            raise UserError("data.name", problem)
    views = settings.views
    if image_shape is not None and views.size is None and source.image_shape[1:] != image_shape[1:]:
        views = views.model_copy(update={"size": image_shape[1]})
    looked = Views(views, source.image_shape, mean, std, dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed(settings.run.seed, "linear", "init"))
        encoder, width = build_encoder(settings.encoder, looked.output_shape)
    if weights is not None:
        encoder.load_state_dict(weights)
    else:
        told = load_encoder_weights(encoder, settings.encoder, looked.output_shape)
        folder, trained = settings.run.folder / path.stem, told[0]
    return Subject(
        encoder=encoder.to(device=device, dtype=dtype, memory_format=torch.channels_last).eval(),  # type: ignore[call-overload]
        width=width,
        source=source,
        store=Store(source, device, settings.data),
        views=looked,
        rows=split_rows(source, settings),
        folder=folder,
        trained=trained,
    )


def split_rows(source: Source, settings: LinearSettings) -> Rows:
    """The rows of train and test part whose class is known; of the train part the share that the settings ask for.

    Raises:
        UserError: no classes, no test rows, or too few of the others.
    """
    truth, method, seed = source.read_truth(None), settings.method, settings.run.seed
    if truth is None:
        raise UserError("data.truth", f"{source.name} has no classes to learn", "set it to folders or a CSV")
    train, test, of = train_and_test(source, truth)
    used = train[stratified(truth[train], method.labels, seed, "labels")]
    held = torch.zeros(len(used), dtype=torch.bool)
    if len(settings.learning_rates) * len(method.tokens) > 1:
        held[stratified(truth[used], method.held_out, seed, "held out")] = True
    rows = Rows(used[~held], used[held], test, truth, int(truth.max()) + 1, "")
    if not len(rows.fitted) or not len(test):
        raise UserError("data", f"{len(rows.fitted)} train rows and {len(test)} test rows of known class: too few")
    of_all = "" if method.labels == 1 else f" of {len(train):,}"
    chosen = f", {len(rows.held):,} held out to choose by" if len(rows.held) else ""
    words = f"{source.name}: fitted to {len(rows.fitted):,}{of_all} train rows{chosen}, {len(test):,} test rows{of}"
    return Rows(rows.fitted, rows.held, test, truth, rows.n_classes, words)
