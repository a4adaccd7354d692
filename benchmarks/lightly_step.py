"""A step of BYOL put together from lightly's building blocks, as its examples do, to be measured beside ours."""

import copy
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from benchmarks.speed_measure import DEVICE
from models.byol import BYOLConfig
from training.settings import Settings
from training.step import autocast
from utils.compat import prepare_torchvision


def has_lightly() -> bool:
    """Whether lightly can be imported."""
    return find_spec("lightly") is not None


class LightlyBYOL:
    """Its heads, loss and moving average around `encoder`, on two views (batch, *shape) that are there already."""

    def __init__(
        self, encoder: nn.Module, feature_dim: int, settings: Settings, batch: int, shape: tuple[int, int, int]
    ) -> None:
        prepare_torchvision()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad, update_momentum

        config = settings.method
        assert isinstance(config, BYOLConfig)
        hidden, width = config.hidden_dim, config.projection_dim
        self.online = nn.Sequential(encoder, BYOLProjectionHead(feature_dim, hidden, width)).to(DEVICE).train()
        self.predictor = BYOLPredictionHead(width, hidden, width).to(DEVICE)
        self.target = copy.deepcopy(self.online)
        deactivate_requires_grad(self.target)
        self.loss, self.move = NegativeCosineSimilarity(), update_momentum
        self.momentum, self.precision = config.ema_momentum, settings.optim.precision
        learnt = [*self.online.parameters(), *self.predictor.parameters()]
        self.optimizer = torch.optim.SGD(learnt, lr=0.06, momentum=0.9, weight_decay=settings.optim.weight_decay)
        self.views = torch.randn(2, batch, *shape, device=DEVICE)

    def __call__(self, n_steps: int) -> None:
        """So many steps."""
        for _ in range(n_steps):
            self.move(self.online, self.target, m=self.momentum)
            with autocast(self.precision, DEVICE):
                predictions, projections = zip(*map(self._both, self.views), strict=True)
                loss = (self.loss(predictions[0], projections[1]) + self.loss(predictions[1], projections[0])) / 2
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _both(self, view: Tensor) -> tuple[Tensor, Tensor]:
        """The online network's prediction and the target's projection of a view."""
        with torch.no_grad():
            projection = self.target(view)
        return self.predictor(self.online(view)), projection
