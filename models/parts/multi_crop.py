"""Crops of several sizes: their way through a network, and the loss of methods that predict one crop from another."""

import torch
from torch import Tensor, nn

from models.method import forward_views

N_TARGETS = 2  # the first views give targets, all other crops are small: "global" and "local" ones


def forward_crops(encoder: nn.Module, head: nn.Module, crops: list[Tensor], joint: bool) -> list[Tensor]:
    """`head` of `encoder` of each crop: one call of the encoder for each size, then one of the head for all crops.

    crops: each (B, C, H, W), of any sizes in any order. joint: False for a call each. Within a call positions stand
    side by side, crop fastest, so that a BatchNorm group stays one block. Caron et al. 2020, section 3.2.
    """
    sizes: dict[torch.Size, list[int]] = {}
    for place, crop in enumerate(crops):
        sizes.setdefault(crop.shape[2:], []).append(place)
    features: dict[int, Tensor] = {}
    for places in sizes.values():
        features |= zip(places, forward_views(encoder, [crops[place] for place in places], joint), strict=True)
    return forward_views(head, [features[place] for place in range(len(crops))], joint)


def predict_targets(logits: list[Tensor], targets: list[Tensor], *, temperature: float) -> Tensor:
    """Mean over pairs of a target and another crop of the cross-entropy of the crop's softmax from the target.

    logits: V of (B, K), carry the gradient. targets: the first A crops' (B, K) probabilities, detached here. Local:
    the mean over ranks is the loss of the whole batch; computed in float32 or wider. Caron et al. 2020, eq. 1 and 2;
    Caron et al. 2021, eq. 3.

    >>> first, second = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]])
    >>> predict_targets([first, second], [second], temperature=1.0)  # log(e + 1) - 1
    tensor(0.3133)
    """
    with torch.autocast(logits[0].device.type, enabled=False):
        logs = [
            torch.log_softmax(each.to(torch.promote_types(each.dtype, torch.float32)) / temperature, dim=1)
            for each in logits
        ]
        losses = [
            -(target.detach() * log).sum(1).mean()
            for own, target in enumerate(targets)
            for crop, log in enumerate(logs)
            if crop != own
        ]
        return torch.stack(losses).mean()
