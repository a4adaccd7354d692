"""Which centre is nearest: fast by matrix products, exact by deciding near ties directly. n rows, D features, K."""

import torch
from torch import Tensor

from torch_clustering._checks import chunks

# differences first: |x|² + |c|² - 2xc cancels when rows lie far from the origin
DIRECT = "donot_use_mm_for_euclid_dist"


def nearest(x: Tensor, centers: Tensor) -> Tensor:
    """(n,) int64: each row's nearest centre, the lowest index among equals.

    A row whose best scores differ by less than their rounding error is decided by its float64 differences. So float32
    rows get the labels of float64 distances, however the rows are split into chunks and ranks and at whatever
    precision torch multiplies.

    Args:
        x: (n, D) float32 or float64.
        centers: (K, D) float64.
    """
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    origin = centers.mean(0).to(x.dtype)  # (D,)
    moved = centers - origin  # (K, D) same distances, smaller norms
    radius = moved.norm(dim=1).max()
    weight, bias = (-2 * moved).to(x.dtype), moved.square().sum(1).to(x.dtype)
    error = 2 * _relative_error(x) * radius  # of a score per unit of |x| + radius / 2
    slices = chunks(len(x), x.shape[1] + len(centers), x.device)
    rows = slices[0].stop if slices else 0
    shifted, products = x.new_empty((rows, x.shape[1])), x.new_empty((rows, len(centers)))
    for part in slices:
        block = x[part]
        near = torch.sub(block, origin, out=shifted[: len(block)])  # (b, D)
        scores = torch.addmm(bias, near, weight.T, out=products[: len(block)])  # (b, K) = |x - c|² - |x|²
        own = _argmin(scores)  # (b,)
        slack = 2 * error * (torch.linalg.vector_norm(near, dim=1) + radius / 2)
        close = scores <= (scores.gather(1, own[:, None])[:, 0] + slack).to(x.dtype)[:, None]
        if int(close.count_nonzero()) > len(block):
            unsure = (close.sum(1) > 1).nonzero()[:, 0]
            own[unsure] = torch.cdist(block[unsure].double(), centers, compute_mode=DIRECT).argmin(1)
        labels[part] = own
    return labels


def own_squared_distances(x: Tensor, centers: Tensor, labels: Tensor) -> Tensor:
    """(n,) float64: squared distance of each row to the centre its label names. centers (K, D) float64."""
    squared = torch.empty(len(x), dtype=torch.float64, device=x.device)
    for part in chunks(len(x), 2 * x.shape[1], x.device):
        squared[part] = (x[part] - centers[labels[part]]).square().sum(1)
    return squared


def _argmin(scores: Tensor) -> Tensor:
    """Index of the least score of each row; NumPy's takes a tenth of the time of torch's on the CPU."""
    return torch.from_numpy(scores.numpy().argmin(1)) if scores.device.type == "cpu" else scores.argmin(1)


def _relative_error(x: Tensor) -> float:
    """Bound of |computed - exact| / (|x| |c|) of a product of D terms, at the precision torch multiplies with now."""
    rounding = (x.shape[1] + 8) * torch.finfo(x.dtype).eps / 2
    if x.dtype == torch.float64:
        return rounding
    backend = torch.backends.cuda if x.is_cuda else torch.backends.mkldnn
    return rounding + {"tf32": 2.0**-10, "bf16": 2.0**-7}.get(backend.matmul.fp32_precision, 0.0)
