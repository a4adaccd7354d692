"""Which centre is nearest, on CUDA: products in float16 that can be trusted, the few others decided more exactly.

n rows, D features, K centres. Rows are moved to an origin near them and scaled, so that float16 holds them to 11 bits
(bfloat16 would hold 8 at the same speed), and what its rounding took is measured. A row keeps the label of its float16
scores when the second is further away than all errors together; else float32 products by thrice TF32 are asked, then
the caller's float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_clustering._checks import chunks

UNSURE_ROWS = 1 << 16  # decided at a time, which bounds their copies in memory


class Shifted(NamedTuple):
    """Rows as products take them: (x - origin) * scale.

    rows (n, W): D features and zeros; norms (n,); lost (n,): norms of what rounding took; origin (D,); scale ().
    """

    rows: Tensor
    norms: Tensor
    lost: Tensor
    origin: Tensor
    scale: Tensor


def available(device: torch.device) -> bool:
    """Whether `device` can run the kernels: an NVIDIA GPU of compute capability 8.0 or higher, and Triton is there."""
    if device.type != "cuda" or torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return True


def nearest(
    x: Tensor, centers: Tensor, decide: Callable[[Tensor, Tensor], Tensor], shifted: Shifted | None = None
) -> Tensor:
    """(n,) int64: each row's nearest centre by float64 distances, the lowest index among equals.

    Args:
        x: (n, D) float32, float16 or bfloat16.
        centers: (K, D) float64.
        decide: labels (b,) of b rows in float64 and `centers`; asked for rows that float32 products leave unsure.
        shifted: `shift_rows` of x in float16, for many passes over the same rows; it is half as large as float32 x.
    """
    labels = torch.empty(len(x), dtype=torch.int64, device=x.device)
    origin = centers.mean(0)
    radius = (centers - origin).norm(dim=1).max()
    for part in chunks(len(x), x.shape[1], x.device) if shifted is None else [slice(0, len(x))]:
        rows = shifted or shift_rows(x[part], origin, radius, torch.float16)
        labels[part], unsure = screen(rows, centers)
        for some in (unsure + part.start).split(UNSURE_ROWS):
            labels[some], still = screen(shift_rows(x[some], origin, radius, torch.float32), centers)
            if len(still):
                labels[some[still]] = decide(x[some[still]].double(), centers)
    return labels


def shift_rows(x: Tensor, origin: Tensor, length: Tensor, dtype: torch.dtype) -> Shifted:
    """`x` as seen from `origin` (D,), scaled so that `length` (a number) becomes about 64, in float16 or float32.

    Labels do not depend on the two, speed does: take the mean of rows or centres and a usual distance from it.
    """
    from torch_clustering.cuda_kernels import shift

    scale = torch.where(length > 0, torch.exp2(6 - length.log2().ceil()), 1).clamp(2.0**-100, 2.0**100).float()
    origin = origin.float()
    return Shifted(*shift(x, origin, scale, dtype), origin, scale)


def screen(x: Shifted, centers: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) int64 labels, and the positions of rows whose label the error of the products could have changed.

    centers (K, D) float64.
    """
    from torch_clustering.cuda_kernels import nearest_two

    moved = F.pad((centers - x.origin) * x.scale, (0, x.rows.shape[1] - centers.shape[1]))  # (K, W)
    weight, bias = (-2 * moved).clamp(-65504, 65504).to(x.rows.dtype), moved.square().sum(1)
    labels, best, second = nearest_two(x.rows, weight, bias.float(), precision="tf32x3")
    # of rounded factors y of x and v of w: |x w - y v| <= |x - y| |w| + |y| |w - v|; then what sums in float32 lose
    longest, lost = 2 * moved.norm(dim=1).max(), (weight + 2 * moved).norm(dim=1).max()
    norms = x.norms.double() + x.lost
    error = x.lost * longest + norms * lost + _relative_error(x.rows) * (norms * longest + bias.max())
    sure = second.double() - best > 2.02 * error
    return labels.long(), torch.logical_not(sure).nonzero()[:, 0]


def _relative_error(rows: Tensor) -> float:
    """Bound of |computed - exact| / (|x| |w|) of D products of factors of the rows' dtype, summed in float32.

    Tensor cores cut off where others round to nearest, and thrice TF32 leaves out the product of the low parts.
    """
    return (rows.shape[1] + 8) * 2.0**-23 + (2.0**-18 if rows.dtype == torch.float32 else 0.0)
