"""What was done for speed changes no result: training beside the same training written plainly."""

import dataclasses
import shutil

import pytest
import torch
from torch import Tensor
from torch._dynamo.utils import counters

from models import METHODS
from models.parts.encoders import build_encoder
from models.state import ClusterState
from tests.runs import tiny_run
from training.build import Run, compile_networks
from training.optim import set_schedules
from training.step import train_step
from utils import schedules


def losses_of(run: Run, n_steps: int) -> list[float]:
    """Of a run's first steps as the training loop makes them, an epoch with clusters among them."""
    compile_networks(run)
    run.method.train()
    clock, found = run.clock, []
    while len(found) < n_steps:
        batches = run.feed.rest_of_epoch(clock, state_of(run))
        for _ in range(min(clock.steps_left_in_epoch, n_steps - len(found))):
            losses, carry = train_step(
                run.method, run.method, run.optimizer, batches, state_of(run), clock, run.settings.optim, run.guard
            )
            assert carry is not None
            run.method.after_step(carry, clock)
            found.append(float(losses["loss"]))
            clock = clock.tick()
    return found


def state_of(run: Run) -> ClusterState | None:
    """Random clusters, for a method that wants some."""
    labels = torch.randint(10, (1797,), generator=torch.Generator().manual_seed(0))
    return None if run.method.first_e_step_epoch is None else ClusterState(labels=labels)


def plain_losses(run: Run, n_steps: int) -> list[float]:
    """The same without any of it: rows of channels, torch's BatchNorm, one parameter after the other."""
    settings = run.settings
    encoder, width = build_encoder(settings.encoder, run.views.output_shape)
    build = METHODS[settings.method.name]
    method = build(encoder, width, settings.method, settings.estep, 10).double()  # type: ignore[call-arg, arg-type]
    method.load_state_dict(run.method.state_dict(), strict=False)
    method.train()
    groups = [
        {"params": [parameter], "part": part, "weight_decay": settings.optim.weight_decay * (parameter.ndim > 1)}
        for part, parameters in method.parameter_groups().items()
        for parameter in parameters
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0, momentum=settings.optim.sgd_momentum, foreach=False, fused=False)
    clock, found = run.clock, []
    while len(found) < n_steps:
        for batch in run.feed.rest_of_epoch(clock, state_of(run)):
            views = [view.contiguous() for view in batch.views]
            optimizer.zero_grad()
            loss = method.loss(dataclasses.replace(batch, views=views), state_of(run), clock)["loss"]
            assert isinstance(loss, Tensor)
            loss.backward()
            set_schedules(optimizer, settings.optim, clock)
            optimizer.step()
            if hasattr(method, "target"):
                move(method, schedules.ema_momentum(settings.method.ema_momentum, None, clock))
            found.append(loss.item())
            clock = clock.tick()
    return found[:n_steps]


@torch.no_grad()
def move(method: torch.nn.Module, momentum: float) -> None:
    """The target network towards the online one."""
    for old, new in zip(method.target.parameters(), method.online.parameters(), strict=True):
        old.copy_(momentum * old + (1 - momentum) * new)


@pytest.mark.parametrize("name", ["propos", "byol", "simclr", "simsiam"])
def test_losses_of_fifty_steps_equal_those_of_the_plain_path(name: str) -> None:
    changes = {"method__ema_momentum_final": None} if name in ("propos", "byol") else {}
    fast, plain = (tiny_run(name, optim__precision="fp64", **changes) for _ in range(2))
    torch.testing.assert_close(losses_of(fast, 50), plain_losses(plain, 50), rtol=1e-9, atol=0)


def test_losses_of_five_steps_in_bf16_lie_close_to_those_in_fp32() -> None:
    exact, rounded = (losses_of(tiny_run(optim__precision=precision), 5) for precision in ("fp32", "bf16"))
    assert rounded != exact

    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0)


@pytest.mark.filterwarnings("ignore")  # of the compiler itself
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler")
def test_losses_of_five_compiled_steps_lie_close_to_those_that_are_not() -> None:
    exact = losses_of(tiny_run("simclr"), 5)
    before = counters["stats"]["unique_graphs"]
    compiled = losses_of(tiny_run("simclr", optim__compile=True), 5)
    assert counters["stats"]["unique_graphs"] > before
    torch.testing.assert_close(compiled, exact, rtol=1e-5, atol=0)
