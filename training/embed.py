"""Features of rows: eval mode, clean images (or features of them), fixed chunks, each row once."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from data.loader import ahead
from data.store import RowStore
from data.views import Views
from models.method import Method
from models.state import FeatureShard
from training.step import autocast
from utils import distributed
from utils.clock import Clock
from utils.draws import derived_seed

CHUNK = 256
CHUNKS_AHEAD = 2  # where pixels come from a disk


@torch.no_grad()
def map_rows(
    function: Callable[[Tensor], Tensor],
    network: nn.Module,
    store: RowStore,
    views: Views | None,
    rows: Tensor,
    precision: str,
) -> Tensor:
    """`function` of the clean images of `rows`, chunk by chunk, with `network` in eval mode: (n, ...).

    function: (B, C, H, W) to (B, ...), for instance `method.embed`; of a store of features, whose views are None,
    (B, D) to (B, ...). The result is float32, float64 in fp64.
    """
    network.eval()
    parts = []
    some = rows if len(rows) else torch.zeros(1, dtype=torch.int64)  # without rows: the shape of a result without any
    for images in ahead(some.split(CHUNK), store.images, store.device, 0 if store.resident else CHUNKS_AHEAD):
        with autocast(precision, store.device):
            result = function(images if views is None else views.clean(images))
        parts.append(result if result.dtype == torch.float64 else result.float())
    return torch.cat(parts)[: len(rows)]


def embed_shard(
    method: Method,
    store: RowStore,
    views: Views | None,
    clock: Clock,
    *,
    seed: int,
    precision: str,
    pause: Callable[[], object] = lambda: None,
) -> FeatureShard:
    """This rank's contiguous rows as the E-step sees them. pause: called between chunks, as often on every rank."""
    rows = store.shard(distributed.rank(), distributed.world())
    pauses = iter(range(store.n_rows // distributed.world() // CHUNK))  # chunks that the smallest shard has, too

    def embed(images: Tensor) -> Tensor:
        if next(pauses, None) is not None:
            pause()
        return method.embed(images)

    features = map_rows(embed, method, store, views, rows, precision)
    probabilities = None
    if method.heads and method.input == "images":  # of features a method computes them in its E-step
        side_by_side = map_rows(method.probabilities, method, store, views, rows, precision)
        probabilities = list(side_by_side.split(method.heads, dim=1))
    return FeatureShard(rows, features, store.n_rows, derived_seed(seed, "estep", clock.step), probabilities)
