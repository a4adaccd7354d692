"""A linear probe: multinomial logistic regression on frozen features, whose rows stay on their ranks.

The problem is convex: there is no learning rate to choose, and any number of ranks finds the same optimum.
"""

from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from evaluation.knn import encode_part, knn_accuracy
from evaluation.label_split import train_and_test
from models.parts.linear_fit import fit_logistic, logits, loss_and_gradient, principal_axes, rotate
from training.build import Run
from utils import distributed
from utils.draws import seeded

STRENGTHS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)  # of L2, where the loss is a mean over rows; strong ones are fitted first
HELD_OUT = 10  # a tenth of the train rows chooses the strength
ROUGH, FINE = 1e-4, 1e-5  # L-BFGS stops at this largest entry of the scaled gradient: to choose, to be scored


def score_linear(run: Run) -> dict[str, Any] | None:
    """Test accuracy of a linear probe on the encoder's output, with its protocol. Collective: equal on all ranks.

    None where the source has no ground truth, or knows the classes of fewer than ten train rows or of no test row.
    Eval mode, clean images, standardised features. The strength of L2 is the one of `STRENGTHS` with the least loss on
    a tenth of the train rows that was held out; then all train rows are fitted with it. Rows of unknown truth take no
    part.
    """
    truth = run.source.read_truth(None)
    if truth is None:
        return None
    train_rows, test_rows, of = train_and_test(run.source, truth)
    if len(train_rows) < HELD_OUT or not len(test_rows):
        return None
    features, classes = encode_part(run, train_rows, truth)
    test_features, test_classes = encode_part(run, test_rows, truth)
    mean, rotation, variance = principal_axes(features)
    points, test_points = rotate(features, mean, rotation), rotate(test_features, mean, rotation)
    n_classes = int(truth.max()) + 1
    held = _own_part(_held_out(len(train_rows), run.settings.run.seed)).to(points.device)
    strength, weights = choose_strength(points, classes, held, variance, n_classes)
    weights = fit_logistic(points, classes, variance, strength, weights, tolerance=FINE)
    n_held = len(train_rows) // HELD_OUT
    return {
        "accuracy": knn_accuracy(logits(test_points, weights), test_classes),
        "features": run.method.encode_name,
        "protocol": f"{len(test_rows):,} test rows{of}, fitted to {len(train_rows):,}",
        "l2": strength,
        "chosen": f"of {len(STRENGTHS)} on {n_held:,} held-out rows",
    }


def choose_strength(
    points: Tensor, classes: Tensor, held: Tensor, variance: Tensor, n_classes: int
) -> tuple[float, Tensor]:
    """The strength of L2 whose fit to the rows that are not `held` has the least loss on those, and that fit.

    held: (n,) bool. The other arguments, and the weights, are those of `fit_logistic`. Collective.
    """
    fitted, judged = (points[~held], classes[~held]), (points[held], classes[held])
    weights = variance.new_zeros((n_classes, len(variance) + 1))
    fits = []
    for strength in STRENGTHS:
        weights = fit_logistic(*fitted, variance, strength, weights, tolerance=ROUGH)
        loss, _ = loss_and_gradient(*judged, weights)
        fits.append((float(distributed.reduce_sum_(loss)), strength, weights))
    _, strength, weights = min(fits, key=itemgetter(0))
    return strength, weights


def _held_out(n_rows: int, seed: int) -> Tensor:
    """(n_rows,) bool: a tenth, drawn."""
    held = torch.zeros(n_rows, dtype=torch.bool)
    held[torch.randperm(n_rows, generator=seeded(seed, "linear probe"))[: n_rows // HELD_OUT]] = True
    return held


def _own_part(rows: Tensor) -> Tensor:
    rank, world = distributed.rank(), distributed.world()
    return rows[rank * len(rows) // world : (rank + 1) * len(rows) // world]
