"""What a model is going to see: the views of a config, as a picture."""

from pathlib import Path

import torch

from data.contact_sheet import contact_sheet
from data.store import open_source
from data.views import Views
from training.settings import Settings

N_IMAGES = 16


def write_views(settings: Settings, path: Path) -> None:
    """Write a PNG of the first images, each beside its views. Raises UserError for data that are not there."""
    source = open_source(settings.data)
    images = source.read(torch.arange(min(N_IMAGES, source.n_rows)))
    views = Views(settings.views, source.image_shape, source.mean, source.std)
    contact_sheet(images, views, len(images), seed=settings.run.seed).save(path)
