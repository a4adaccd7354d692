"""Optimisers against published three-step numbers; groups by shape; learning rates by part."""

import pytest
import torch
from torch import Tensor, nn

from tests.vectors import z
from training.optim import OptimConfig, build_optimizer, clip, set_schedules
from utils.clock import Clock
from utils.config import compose, validate
from utils.errors import UserError


def start() -> tuple[nn.Parameter, nn.Parameter]:
    i, j = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    return nn.Parameter(0.5 * torch.sin(1 + 3 * i + j)), nn.Parameter(0.2 * torch.cos(i[:, 0]))


def gradients(step: int) -> tuple[Tensor, Tensor]:
    i, j = torch.arange(4, dtype=torch.float64)[:, None], torch.arange(3, dtype=torch.float64)
    return torch.cos(0.3 * step + i - 0.5 * j), 0.1 * torch.sin(step + i[:, 0])


def three_steps(config: OptimConfig, rates: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    w, b = start()
    optimizer = build_optimizer(config, {"online": [w, b]})
    for step, rate in enumerate(rates, 1):
        w.grad, b.grad = gradients(step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    return w.detach(), b.detach()


@pytest.mark.parametrize(
    ("changes", "rates", "w_first", "b"),
    [
        ({"name": "sgd"}, (0.1,) * 3, [-0.0572311932333, -0.0922101474528, -0.411214888232],
         [0.158508285121, 0.0883052457066, -0.0630852293704, -0.156475435497]),
        ({"name": "sgd", "decay_norm_and_bias": True}, (0.1,) * 3,
         [-0.0572311932333, -0.0922101474528, -0.411214888232],
         [0.158454240944, 0.0882767342463, -0.0630619948083, -0.156421816662]),
        ({"name": "sgd", "nesterov": True, "weight_decay": 0.01}, (0.1,) * 3,
         [-0.251676126685, -0.329329250878, -0.630574888665],
         [0.143738572412, 0.0873446178575, -0.0493535755452, -0.140676319197]),
        ({"name": "lars", "lars_variant": "you2017"}, (1.6,) * 3, [0.417069948726, 0.450455032332, 0.0668650769082],
         [-0.463867438057, -0.208022986299, 0.239076839716, 0.466370521855]),
        ({"name": "lars", "lars_variant": "you2017", "decay_norm_and_bias": True}, (1.6,) * 3,
         [0.417069948726, 0.450455032332, 0.0668650769082],
         [0.198597387988, 0.107426453964, -0.0825118664122, -0.196589157332]),
        ({"name": "lars", "lars_variant": "you2017"}, (1.6, 0.8, 0.4),
         [0.418026814024, 0.451707944184, 0.0681072388592],
         [-0.308719828213, -0.277389044511, 0.00897194746914, 0.287084172322]),
        ({"name": "lars", "lars_variant": "larc"}, (1.6, 0.8, 0.4), [0.418945379309, 0.452675688407, 0.0688871942823],
         [-0.133608230217, -0.118455599602, 0.00560456300179, 0.124511916228]),
        ({"name": "lars", "lars_variant": "mocov3"}, (1.6,) * 3, [0.417069824626, 0.450454890146, 0.0668649514536],
         [-0.463867438057, -0.208022986299, 0.239076839716, 0.466370521855]),
        ({"name": "lars", "lars_variant": "mocov3", "decay_norm_and_bias": True}, (1.6,) * 3,
         [0.417069824626, 0.450454890146, 0.0668649514536],
         [0.198597351262, 0.107426490863, -0.0825117898125, -0.196589111457]),
        ({"name": "lars", "lars_variant": "mocov3"}, (1.6, 0.8, 0.4), [0.418945318836, 0.452675621704, 0.0688871376826],
         [-0.133608230217, -0.118455599602, 0.00560456300179, 0.124511916228]),
    ],
)  # fmt: skip
def test_three_steps_equal_the_published_numbers(
    changes: dict, rates: tuple[float, ...], w_first: list[float], b: list[float]
) -> None:
    decay = 5e-4 if changes["name"] == "sgd" else 1e-4
    weights, biases = three_steps(OptimConfig(**{"weight_decay": decay, **changes}), rates)
    assert weights[0].tolist() == pytest.approx(w_first, rel=1e-9)
    assert biases.tolist() == pytest.approx(b, rel=1e-9)


@pytest.mark.parametrize(
    ("variant", "second"),
    [
        (
            "you2017",
            [0.841624722382, 0.746295614002, -0.442358317276, 0.992149632303, 0.0918995997463, -0.951896378532],
        ),
        ("larc", [0.841629110026, 0.746195410419, -0.442416313601, 0.992085209135, 0.0918042161174, -0.951873734669]),
    ],
)
def test_two_lars_steps_at_a_falling_rate_equal_the_published_numbers(variant: str, second: list[float]) -> None:
    w = nn.Parameter(z(2, 3, 0))
    config = OptimConfig(name="lars", lars_variant=variant, weight_decay=1e-4)  # type: ignore[arg-type]
    optimizer = build_optimizer(config, {"online": [w]})
    found = []
    for step, rate in ((1, 0.3), (2, 0.2)):
        w.grad = z(2, 3, step)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        found.append(w.detach().flatten().tolist())
    first = [0.84145635933, 0.74603922412, -0.44232712221, 0.991879554345, 0.0917825876623, -0.951677553432]
    assert found[0] == pytest.approx(first, abs=1e-11)
    assert found[1] == pytest.approx(second, abs=1e-11)


def test_clipped_lars_steps_no_farther_than_sgd() -> None:
    far, near = nn.Parameter(torch.full((2, 2), 1e6)), nn.Parameter(torch.full((2, 2), 3.0))
    config = OptimConfig(name="lars", lars_variant="larc", lars_trust=0.02, lars_clip=True, weight_decay=0)
    optimizer = build_optimizer(config, {"online": [far, near]})
    far.grad, near.grad = torch.ones(2, 2), torch.ones(2, 2)
    optimizer.param_groups[0]["lr"] = 0.5
    optimizer.step()
    assert far.tolist() == [[1e6 - 0.5] * 2] * 2  # sgd's step: lr * gradient
    assert near.flatten().tolist() == pytest.approx([3 - 0.02 * 3] * 4, rel=1e-6)  # trust * |w| / |g| * gradient


def test_zero_weights_and_zero_gradients_have_a_trust_ratio_of_one() -> None:
    zero, still = nn.Parameter(torch.zeros(3, 2)), nn.Parameter(torch.ones(2, 3))
    optimizer = build_optimizer(OptimConfig(name="lars", weight_decay=0), {"online": [zero, still]})
    zero.grad, still.grad = torch.ones(3, 2), torch.zeros(2, 3)
    for group in optimizer.param_groups:
        group["lr"] = 0.5
    optimizer.step()
    assert torch.equal(zero.detach(), torch.full((3, 2), -0.5))
    assert torch.equal(still.detach(), torch.ones(2, 3))


def test_groups_go_by_shape_not_by_name() -> None:
    net = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    predictor = nn.Linear(2, 2)
    frozen = nn.Parameter(torch.ones(3), requires_grad=False)
    parts = {"online": [*net.parameters(), frozen], "predictor": list(predictor.parameters())}
    groups = build_optimizer(OptimConfig(weight_decay=0.3), parts).param_groups
    found = [(g["part"], g["weight_decay"], sorted(p.ndim for p in g["params"])) for g in groups]
    assert found == [
        ("online", 0.3, [2, 2]),
        ("online", 0.0, [1, 1, 1, 1]),
        ("predictor", 0.3, [2]),
        ("predictor", 0.0, [1]),
    ]


@pytest.mark.parametrize(("fixed", "expected"), [(False, 10 * 0.025), (True, 10 * 0.05)])
def test_predictor_has_its_own_learning_rate(fixed: bool, expected: float) -> None:
    config = OptimConfig(global_batch=128, learning_rate=0.1, warmup_epochs=1, fixed_predictor_lr=fixed)
    optimizer = build_optimizer(config, {"online": [start()[0]], "predictor": [start()[0]]})
    assert set_schedules(optimizer, config, Clock(4, 10, 100)) == pytest.approx(0.025)  # peak 0.05, half warmed up
    assert [g["lr"] for g in optimizer.param_groups] == pytest.approx([0.025, expected])


def test_the_step_schedule_takes_its_milestones_from_the_config() -> None:
    words = ["optim.schedule=step", "optim.milestones=[3, 5]", "optim.step_factor=0.2", "optim.learning_rate=0.1"]
    config = validate(compose([], words), {"optim": OptimConfig})["optim"]
    assert isinstance(config, OptimConfig)
    optimizer = build_optimizer(config, {"online": [start()[0]]})
    rates = [set_schedules(optimizer, config, Clock(step, 10, 100)) for step in (29, 30, 50)]
    assert rates == pytest.approx([0.1, 0.02, 0.004])


@pytest.mark.parametrize("word", ["optim.schedule=step", "optim.milestones=[3]"])
def test_milestones_and_the_step_schedule_need_each_other(word: str) -> None:
    with pytest.raises(UserError, match="optim: milestones and schedule: step belong together"):
        validate(compose([], [word]), {"optim": OptimConfig})


def test_fused_sgd_equals_the_plain_one() -> None:
    w, b = three_steps(OptimConfig(), (0.1, 0.2, 0.3))
    pw, pb = start()
    plain = torch.optim.SGD(
        [{"params": [pw]}, {"params": [pb], "weight_decay": 0.0}], lr=0.1, momentum=0.9, weight_decay=5e-4
    )
    for step, rate in enumerate((0.1, 0.2, 0.3), 1):
        pw.grad, pb.grad = gradients(step)
        for group in plain.param_groups:
            group["lr"] = rate
        plain.step()
    torch.testing.assert_close((w, b), (pw.detach(), pb.detach()), atol=1e-14, rtol=0)


def adam_loop(weights: Tensor, decay: float, decoupled: bool, rates: tuple[float, ...]) -> Tensor:
    """Kingma and Ba 2015, algorithm 1; decay in the gradient, or of the weights as Loshchilov and Hutter 2019."""
    weights, mean, square = weights.detach().clone(), 0.0, 0.0
    for step, rate in enumerate(rates, 1):
        gradient = gradients(step)[0]
        if decoupled:
            weights = weights - rate * decay * weights
        else:
            gradient = gradient + decay * weights
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        weights = weights - rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)
    return weights


def test_adam_decays_in_the_gradient_and_adamw_the_weights() -> None:
    rates = (0.1, 0.2, 0.3)
    found = {name: three_steps(OptimConfig(name=name, weight_decay=0.3), rates)[0] for name in ("adam", "adamw")}  # type: ignore[arg-type]
    for name, weights in found.items():
        expected = adam_loop(start()[0], 0.3, name == "adamw", rates)
        torch.testing.assert_close(weights, expected, atol=1e-12, rtol=0)
    assert (found["adam"] - found["adamw"]).abs().max() > 0.01


def test_milestones_count_anew_after_every_restart() -> None:
    words = ["optim.schedule=step", "optim.milestones=[3, 5]", "optim.step_factor=0.2", "optim.restart_epochs=7"]
    config = validate(compose([], [*words, "optim.learning_rate=0.1"]), {"optim": OptimConfig})["optim"]
    assert isinstance(config, OptimConfig)
    optimizer = build_optimizer(config, {"online": [start()[0]]})
    rates = [set_schedules(optimizer, config, Clock(10 * epoch, 10, 100)) for epoch in (2, 3, 6, 7, 10, 13, 14)]
    assert rates == pytest.approx([0.1, 0.02, 0.004, 0.1, 0.02, 0.004, 0.1])


def test_weight_decay_goes_along_a_cosine_where_there_is_one() -> None:
    w, b = start()
    config = OptimConfig(name="adamw", weight_decay=0.04, weight_decay_final=0.4)
    optimizer = build_optimizer(config, {"online": [w, b]})
    found = []
    for step in (0, 25, 50, 99):
        set_schedules(optimizer, config, Clock(step, 10, 10))
        found.append([group["weight_decay"] for group in optimizer.param_groups])
    assert [weights for weights, _ in found] == pytest.approx([0.04, 0.0927207794, 0.22, 0.3999111804], abs=1e-9)
    assert {biases for _, biases in found} == {0.0}
    # without an end it stays
    set_schedules(optimizer, OptimConfig(name="adamw", weight_decay=0.04), Clock(50, 10, 10))
    assert optimizer.param_groups[0]["weight_decay"] == pytest.approx(0.3999111804)


@pytest.mark.parametrize(
    ("changes", "long", "short"),
    [
        ({}, [30.0, 40.0], [0.3, 0.4]),
        ({"clip_norm": 5.0}, [3.0 / (1 + 1e-4) ** 0.5, 4.0 / (1 + 1e-4) ** 0.5], [0.03, 0.04]),
        ({"clip_norm": 5.0, "clip_per_tensor": True}, [3.0, 4.0], [0.3, 0.4]),
    ],
)
def test_gradients_are_shortened_together_or_each_alone(
    changes: dict[str, float], long: list[float], short: list[float]
) -> None:
    first, second, none = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3))
    first.grad, second.grad = (torch.tensor(v, dtype=torch.float64) for v in ([30.0, 40.0], [0.3, 0.4]))
    clip([first, none, second], OptimConfig(**changes))  # type: ignore[arg-type]
    assert first.grad.tolist() == pytest.approx(long, rel=1e-6)
    assert second.grad.tolist() == pytest.approx(short, rel=1e-4)
    assert none.grad is None


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["optim.name=adam", "optim.nesterov=true"], "nesterov is of sgd with sgd_momentum"),
        (["optim.nesterov=true", "optim.sgd_momentum=0"], "nesterov is of sgd with sgd_momentum"),
        (["optim.weight_decay=0", "optim.weight_decay_final=0.4"], "weight_decay_final goes on from a weight_decay"),
    ],
)
def test_options_that_do_not_go_together_are_refused(words: list[str], problem: str) -> None:
    with pytest.raises(UserError, match=f"optim: {problem}"):
        validate(compose([], words), {"optim": OptimConfig})
