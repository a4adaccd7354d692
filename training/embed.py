"""Features of rows: eval mode, clean images, fixed chunks, each row once."""

from collections.abc import Callable

import torch
from torch import Tensor

from data.store import Store
from data.views import Views
from models.method import Method
from models.state import FeatureShard
from training.step import autocast
from utils import distributed
from utils.clock import Clock
from utils.draws import derived_seed

CHUNK = 256


@torch.no_grad()
def map_rows(
    function: Callable[[Tensor], Tensor], method: Method, store: Store, views: Views, rows: Tensor, precision: str
) -> Tensor:
    """`function` of the clean images of `rows`, chunk by chunk, with `method` in eval mode: (n, ...).

    function: (B, C, H, W) to (B, ...), for instance `method.embed`. The result is float32, float64 in fp64.
    """
    method.eval()
    parts = []
    for chunk in rows.split(CHUNK):
        with autocast(precision, store.device):
            result = function(views.clean(store.images(chunk)))
        parts.append(result if result.dtype == torch.float64 else result.float())
    if parts:
        return torch.cat(parts)
    with autocast(precision, store.device):  # a rank without rows: the shape of a result without any
        return function(views.clean(store.images(torch.zeros(1, dtype=torch.int64))))[:0].float()


def embed_shard(method: Method, store: Store, views: Views, clock: Clock, *, seed: int, precision: str) -> FeatureShard:
    """This rank's contiguous rows as the E-step sees them."""
    rows = store.shard(distributed.rank(), distributed.world())
    features = map_rows(method.embed, method, store, views, rows, precision)
    return FeatureShard(rows, features, len(store), derived_seed(seed, "estep", clock.step))
