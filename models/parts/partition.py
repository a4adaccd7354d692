"""Partition confidence: each cluster, a column of probabilities, is to be found again in other views of the images."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import distributed

SHORTEST = 1e-12  # a cluster's column counts as at least this long


def partition_confidence(originals: Tensor, others: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The confidence loss and the negative entropy of the cluster sizes, of the global batch. Collective.

    A cluster is the column of its probabilities over all N rows, in `others` over R N: of the images as they are and
    as they are seen otherwise, R times. Each of the former is to be told, by cosine, from the other K - 1 of the latter
    by its own. originals: (B, K) probabilities of this rank's rows, B equal on all ranks. others: R of (B, K), row i of
    each belongs to row i of `originals`. All carry the gradient; the sizes are those of `originals` alone.

    Only K x K products and 3 K sums cross ranks, and both results are equal on every rank; computed in float32 or
    wider. PICA: Huang, Gong and Zhu, CVPR 2020.

    >>> partition_confidence(torch.eye(2), [torch.eye(2)])  # log(1 + 1 / e)
    (tensor(0.3133), tensor(0.))
    """
    with torch.autocast(originals.device.type, enabled=False):
        wide = torch.promote_types(originals.dtype, torch.float32)
        first, second = originals.to(wide), torch.stack([other.to(wide) for other in others])  # (B, K), (R, B, K)
        squares = torch.stack([first.square().sum(0), second.square().sum((0, 1))])  # (2, K)
        # one message: every rank computes the same losses from these sums
        packed = torch.cat([first.T @ second.sum(0), squares, first.sum(0, keepdim=True)])  # (K + 3, K)
        sums = distributed.sum_over_ranks(packed, same_loss=True)
        products, squares, sizes = sums[:-3], sums[-3:-1], sums[-1]
        # clamped before the root, whose gradient at 0 is infinite: a cluster may underflow in every row
        lengths = squares.clamp_min(SHORTEST**2).sqrt()
        # the originals' columns stand R times above themselves, beside those of `others`
        cosines = products / torch.outer(math.sqrt(len(second)) * lengths[0], lengths[1])  # (K, K)
        confidence = F.cross_entropy(cosines, torch.arange(len(cosines), device=cosines.device))
        return confidence, negative_entropy(sizes / (len(first) * distributed.world()))


def negative_entropy(sizes: Tensor) -> Tensor:
    """log K minus the entropy of the cluster sizes: 0 where they are equal, else more; summed over leading dimensions.

    sizes: (..., K) mean probabilities of the global batch, carry the gradient.

    >>> negative_entropy(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
    tensor(0.6931)
    """
    # clamped before the log: at 0 the term is 0 and its gradient finite, where that of xlogy(p, p) is 0 / 0
    logs = sizes.clamp_min(torch.finfo(sizes.dtype).tiny).log()
    return (math.log(sizes.shape[-1]) + (sizes * logs).sum(-1)).sum()
