"""x @ weight.T + bias on the CPU, by whichever of torch's two matrix products is faster on this machine."""

import time
from functools import cache

import torch
from torch import Tensor

CLEARLY = 0.9  # oneDNN makes new memory for each result, which addmm does not
PROBE_NUMBERS = 1 << 18  # that the probed product makes


class Affine:
    """The map x -> x @ weight.T + bias; weight (K, D), bias (K,), both of x's dtype and device."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self.weight, self.bias = weight, bias
        self.onednn = usable(weight) and len(weight) > 1 and onednn_is_faster(weight.shape[1], len(weight))

    def __call__(self, x: Tensor, out: Tensor) -> Tensor:
        """(b, K) of rows x (b, D); `out` (b, K) may or may not be used."""
        if not self.onednn:
            return torch.addmm(self.bias, x, self.weight.T, out=out)
        return onednn(x, self.weight, self.bias)


def onednn(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(b, K) by oneDNN, whose operator is private to torch: `usable` tells whether it is there."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def usable(x: Tensor) -> bool:
    """Whether oneDNN's product exists for this dtype and device, at full precision."""
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@cache
def onednn_is_faster(width: int, n_columns: int) -> bool:
    """Result of a probe of some milliseconds, made once per shape; labels do not depend on it (see `assign`)."""
    draws = torch.Generator().manual_seed(0)
    x = torch.rand((max(64, min(1024, PROBE_NUMBERS // n_columns)), width), generator=draws)
    weight, bias = torch.rand((n_columns, width), generator=draws), torch.zeros(n_columns)
    out = torch.empty((len(x), n_columns))
    seconds = {"addmm": float("inf"), "onednn": float("inf")}
    for _ in range(5):
        for name in seconds:
            started = time.perf_counter()
            if name == "addmm":
                torch.addmm(bias, x, weight.T, out=out)
            else:
                onednn(x, weight, bias)
            seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds["onednn"] < CLEARLY * seconds["addmm"]
