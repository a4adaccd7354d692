"""Contrastive losses: each row is to be told from the other rows of the batch, or from those of a queue."""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import distributed


def nt_xent(first: Tensor, second: Tensor, *, temperature: float) -> Tensor:
    """Mean over this rank's 2B rows of the cross-entropy of finding the other view among the global batch. Collective.

    first, second: (B, D) both views of this rank's rows, of any length, B equal on all ranks; both carry the gradient.
    A row's candidates are the 2N - 1 other rows of all ranks, its positive among them; computed in float32 or wider.
    The mean over ranks is the loss of the whole batch. NT-Xent: Chen et al., ICML 2020, arXiv 2002.05709, eq. 1.

    >>> nt_xent(torch.eye(2), torch.eye(2), temperature=1.0)  # log(e + 2) - 1
    tensor(0.5514)
    """
    with torch.autocast(first.device.type, enabled=False):
        anchors = torch.stack([_normalized(first), _normalized(second)])  # (2, B, D)
        # the views are a dimension of the message: halves of all rows in rank order would not be views
        columns = distributed.gather(anchors.transpose(0, 1)).transpose(0, 1)  # (2, N, D)
        logits = anchors.flatten(0, 1) @ columns.flatten(0, 1).T / temperature  # (2B, 2N)
        n_rows, total = len(first), columns.shape[1]
        own = distributed.rank() * n_rows + torch.arange(n_rows, device=first.device)  # (B,) places among the N rows
        itself, positive = torch.cat([own, total + own]), torch.cat([total + own, own])
        logits.scatter_(1, itself[:, None], -torch.inf)  # a row is no candidate of its own
        return F.cross_entropy(logits, positive)


def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, written: Tensor, *, temperature: float) -> Tensor:
    """Mean over rows of the cross-entropy of finding a query's key among that key and the rows of a queue.

    queries: (B, D) of any length, carry the gradient. keys: (B, D) of any length, detached here. queue: (Q, D)
    normalised past keys; written: (Q,) bool, which of them exist. Computed in float32 or wider; 0 while none exists.
    InfoNCE with a queue: He et al., CVPR 2020, arXiv 1911.05722, eq. 1.

    >>> queue, written = torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([True, False])
    >>> info_nce(torch.tensor([[2.0, 0.0]]), torch.tensor([[3.0, 0.0]]), queue, written, temperature=1.0)
    tensor(0.3133)
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = _normalized(queries), _normalized(keys.detach())
        positive = (queries * keys).sum(1, keepdim=True)  # (B, 1)
        negatives = queries @ queue.to(queries.dtype).T  # (B, Q)
        # an unwritten row is no negative: -inf, not its similarity 0, which would still count
        logits = torch.cat([positive, negatives.masked_fill(~written, -torch.inf)], 1) / temperature  # (B, 1 + Q)
        return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


def _normalized(rows: Tensor) -> Tensor:
    """Rows of length 1, in float32 or wider."""
    return F.normalize(rows.to(torch.promote_types(rows.dtype, torch.float32)), dim=1)
