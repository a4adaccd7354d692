"""How a run begins: anew, from what another run has learnt, or where its own checkpoint stands."""

import torch

from training.build import Run, build_run, restore_run
from training.checkpoint import has_checkpoint
from training.features import feed_features
from training.init_from import adopt_clusters, check_first_run
from training.run_dir import RunDirectory
from training.settings import Settings


def new_run(settings: Settings, device: torch.device) -> Run:
    """A run before its first step. Collective. Raises UserError for settings that the data cannot serve."""
    first = settings.run.init_from
    if first is not None:
        check_first_run(settings, first)
    run = build_run(settings, device)
    if first is not None and run.method.starts_from == "clusters":
        run.told.append(adopt_clusters(run, first))
    if run.method.input == "features":
        run.told.append(feed_features(run))
    return run


def continued_run(settings: Settings, directory: RunDirectory, device: torch.device) -> Run:
    """A run that is there already: as `open_run`, or before its first step where it was killed before it had saved."""
    if has_checkpoint(directory.checkpoints):
        return open_run(settings, directory, device)
    run = new_run(settings, device)
    run.directory = directory
    return run


def open_run(settings: Settings, directory: RunDirectory, device: torch.device) -> Run:
    """A run as its newest good checkpoint left it, to go on or to be judged. Collective.

    Raises UserError when there is no such checkpoint.
    """
    run = build_run(settings, device, fresh=False)
    restore_run(run, directory)
    if run.method.input == "features":
        run.told.append(feed_features(run))
    return run
