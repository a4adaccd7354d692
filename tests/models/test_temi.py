"""TEMI's losses against published numbers, slow oracles and several ranks."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.temi import TEMI, agreement, class_prior, temi_losses
from tests.oracles.temi_loop import agreement_loop, prior_loop, softmax_loop, temi_loop
from tests.ranks import run_ranks
from tests.vectors import z

CASES: dict[str, dict[str, Any]] = {
    "A": {
        "sizes": (8, 3, 2), "losses": [-0.068194765589, -0.085817518621], "loss": -0.077006142105, "best": 1,
        "weights": [
            0.2719252305, 0.052091435641, 0.069921838762, 0.37945718615, 0.11268558358, 0.031390352024, 0.22014626215,
            0.07001145544,
        ],
        "prior": [[0.34022699306, 0.3227048455, 0.33706816144], [0.33729103404, 0.32409802275, 0.33861094321]],
        "gradient": {(0, 0, 0, 0): -0.00069773607886, (1, 0, 1, 2): -0.00037546869208, (0, 1, 7, 2): -0.0031797795883},
        "norm": 0.08310882064, "wrong": [-0.096842709383, -0.056421311505], "wrong_mean": -0.076632010444,
    },
    "B": {
        "sizes": (6, 4, 3), "losses": [-0.034885854078, -0.033840068295, -0.032749338334], "loss": -0.033825086902,
        "best": 0,
        "weights": [0.065440013365, 0.03759947159, 0.078723919252, 0.048687133586, 0.046024569071, 0.056484217995],
        "prior": [
            [0.26215283527, 0.24469179253, 0.24544745166, 0.24770792055],
            [0.24632965883, 0.24397723143, 0.25018149728, 0.25951161245],
            [0.24560258241, 0.25564988539, 0.2499942532, 0.248753279],
        ],
        "gradient": {(0, 0, 0, 0): -0.0001143475317, (1, 0, 1, 2): 0.00017607013956, (0, 1, 5, 3): -0.00073106033723},
        "norm": 0.014211354139, "wrong": [-0.038256560023, -0.029184387226], "wrong_mean": -0.033720473625,
    },
}  # fmt: skip


def inputs(name: str, own: slice = slice(None)) -> tuple[Tensor, Tensor]:
    """Logits (H, 2, B, K) of student and teacher, leaves that record their gradient."""
    rows, n_clusters, n_heads = CASES[name]["sizes"]

    def logits(first: int) -> Tensor:
        heads = [[0.3 * z(rows, n_clusters, 10 * h + first + view)[own] for view in (0, 1)] for h in range(n_heads)]
        return torch.stack([torch.stack(views) for views in heads]).requires_grad_()

    return logits(0), logits(2)


def prior_and_losses(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """From logits: the prior after the step that begins with equal shares, and the loss of each head."""
    student, teacher = ((logits / 0.1).log_softmax(3) for logits in (student, teacher))
    n_heads, _, _, n_clusters = student.shape
    prior = class_prior(student.new_full((n_heads, n_clusters), 1 / n_clusters), teacher, momentum=0.9)
    return prior, temi_losses(student, teacher, prior, beta=0.6)


@pytest.mark.parametrize("name", CASES)
def test_losses_weights_priors_and_gradients_equal_the_published_numbers(name: str) -> None:
    expected, (student, teacher) = CASES[name], inputs(name)
    prior, losses = prior_and_losses(student, teacher)
    losses.mean().backward()
    assert losses.tolist() == pytest.approx(expected["losses"], abs=1e-11)
    assert losses.mean().item() == pytest.approx(expected["loss"], abs=1e-11)
    assert losses.argmin().item() == expected["best"]
    assert agreement((teacher / 0.1).log_softmax(3)).tolist() == pytest.approx(expected["weights"], abs=1e-10)
    assert prior.flatten().tolist() == pytest.approx(sum(expected["prior"], []), abs=1e-10)
    assert student.grad is not None
    for place, value in expected["gradient"].items():
        assert student.grad[place].item() == pytest.approx(value, abs=1e-12)
    assert student.grad[0].norm().item() == pytest.approx(expected["norm"], abs=1e-10)
    assert teacher.grad is None  # neither through its probabilities nor through prior and weights


@pytest.mark.parametrize("beta", [0.6, 1.0])
def test_losses_equal_the_loops(beta: float) -> None:
    student, teacher = 0.4 * torch.randn(2, 3, 2, 7, 5, dtype=torch.float64)
    p, q = softmax_loop(student.numpy(), 0.1), softmax_loop(teacher.numpy(), 0.1)
    log_p, log_q = ((logits / 0.1).log_softmax(3) for logits in (student, teacher))
    old = torch.rand(3, 5, dtype=torch.float64).softmax(1)
    prior = class_prior(old, log_q, momentum=0.7)
    torch.testing.assert_close(prior, torch.from_numpy(prior_loop(old.numpy(), q, 0.7)))
    assert agreement(log_q).tolist() == pytest.approx(agreement_loop(q), abs=1e-12)
    found = temi_losses(log_p, log_q, prior, beta=beta)
    assert found.tolist() == pytest.approx(temi_loop(p, q, prior.numpy(), beta), abs=1e-11)


def test_renamed_clusters_and_exchanged_views_do_not_matter() -> None:
    student, teacher = inputs("B")
    _, expected = prior_and_losses(student, teacher)
    renamed = torch.tensor([3, 0, 1, 2])
    torch.testing.assert_close(prior_and_losses(student[..., renamed], teacher[..., renamed])[1], expected)
    torch.testing.assert_close(prior_and_losses(student.flip(1), teacher.flip(1))[1], expected)


def test_a_cluster_that_no_row_takes_gives_finite_losses_and_gradients() -> None:
    logits = z(7, 5, 0).float().index_fill(1, torch.tensor([2]), -200.0).expand(1, 2, 7, 5)
    student = logits.clone().requires_grad_()
    losses = temi_losses(student.log_softmax(3), logits.log_softmax(3), torch.eye(5)[:1].float(), beta=0.6)
    losses.sum().backward()
    assert losses.isfinite().all() and student.grad.isfinite().all()


def test_half_precision_computes_in_float32() -> None:
    student, teacher = ((logits / 0.1).log_softmax(3).bfloat16() for logits in inputs("A"))
    prior = torch.full((2, 3), 1 / 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = temi_losses(student, teacher, prior, beta=0.6)
    assert found.dtype == torch.float32
    assert torch.equal(found, temi_losses(student.float(), teacher.float(), prior, beta=0.6))


def over_ranks(rank: int, world: int) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Of each case that can be cut: prior, this rank's losses, and gradients of its rows of the mean over ranks."""
    found = {}
    for name, case in CASES.items():
        rows = case["sizes"][0]
        if rows % world == 0:
            student, teacher = inputs(name, slice(rank * rows // world, (rank + 1) * rows // world))
            prior, losses = prior_and_losses(student, teacher)
            (losses.mean() / world).backward()
            found[name] = prior, losses.detach(), student.grad
    return found


@pytest.mark.parametrize("world", [2, 4])
def test_losses_and_gradients_over_ranks_are_those_of_the_whole_batch(world: int) -> None:
    ranks = run_ranks(world, over_ranks)
    for name in ranks[0]:
        expected, (student, teacher) = CASES[name], inputs(name)
        prior, losses = prior_and_losses(student, teacher)
        losses.mean().backward()
        for found, _, _ in (rank[name] for rank in ranks):
            torch.testing.assert_close(found, prior, atol=1e-15, rtol=1e-12)
        mean = torch.stack([rank[name][1] for rank in ranks]).mean(0)
        assert mean.tolist() == pytest.approx(expected["losses"], abs=1e-11)
        together = torch.cat([rank[name][2] for rank in ranks], 2)
        torch.testing.assert_close(together, student.grad, atol=1e-15, rtol=1e-10)


@pytest.mark.parametrize("name", CASES)
def test_losses_of_parts_of_a_batch_are_other_losses(name: str) -> None:
    expected, rows = CASES[name], CASES[name]["sizes"][0]
    halves = [prior_and_losses(*inputs(name, own))[1] for own in (slice(rows // 2), slice(rows // 2, rows))]
    found = [losses.mean().item() for losses in halves]
    assert found == pytest.approx(expected["wrong"], abs=1e-11)
    assert sum(found) / 2 == pytest.approx(expected["wrong_mean"], abs=1e-11)
    assert abs(expected["wrong_mean"] - expected["loss"]) > 1e-5
    assert not TEMI.exact_under_accumulation
