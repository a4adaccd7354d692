"""A run from its first step to its scores and its page."""

import torch

from evaluation.evaluate import evaluate
from evaluation.report import report_at_end
from evaluation.scores import epoch_scores
from training.begin import continued_run, new_run
from training.build import Run, start
from training.interrupts import Preempted
from training.log import Log
from training.loop import train
from training.run_dir import RunDirectory, begun_by_this_launch, create_run, run_of_this_name
from training.settings import Settings, caveats, load_settings, require_same
from utils.config import compose
from utils.distributed import launched_world
from utils.process_group import restart_is_safe

UNSAFE_RESTART = (
    "several launchers restart their ranks through a store that keeps the addresses of dead ones: set "
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun, or a restart may hang"
)


def work(settings: Settings, config_name: str, existing: RunDirectory | None) -> None:
    """Train a run to the end and judge it; or leave with a checkpoint, when told to by a signal. Collective.

    existing: the run to go on with; also found where run.resume=auto names one, and where an earlier attempt of this
    launch has begun one.
    """
    if existing is not None:
        _require_same(settings, existing)
    run: Run | None = None

    def ended(status: str, **more: str) -> None:
        if run is not None and run.directory is not None:
            run.directory.set_status(status, run.clock.step, **more)

    device = start(settings.run, lambda text: ended("failed", error=text))
    run = _begin(settings, config_name, existing, device)
    try:
        ended("running")
        with Log(settings.log, run.directory.path if run.directory else None, run.facts()) as log:
            log.say(run.introduction())
            for caveat in caveats(settings):
                log.warn(caveat)
            if not restart_is_safe():
                log.warn(UNSAFE_RESTART)
            try:
                _train_and_judge(run, log)
            except Preempted:
                ended("preempted")
                onwards = f", go on with: python main.py resume {run.directory.path}" if run.directory else ""
                log.say(f"told to leave: saved at step {run.clock.step}{onwards}")
    except (Exception, KeyboardInterrupt) as error:
        ended("failed", error=" ".join(str(error).split()) or type(error).__name__)
        raise


def _begin(settings: Settings, config_name: str, existing: RunDirectory | None, device: torch.device) -> Run:
    """A run before its next step, with its folder. Collective."""
    if settings.run.debug:
        return new_run(settings, device)
    if existing is None:
        existing = begun_by_this_launch(settings.run.folder)
        if existing is None and settings.run.resume == "auto":
            existing = run_of_this_name(settings.run.name, settings.run.folder)
        if existing is not None:
            _require_same(settings, existing)
    if existing is not None:
        return continued_run(settings, existing, device)
    run = new_run(settings, device)
    run.directory = create_run(settings.run.folder, settings.run.name, config_name, settings.to_yaml())
    run.directory.describe_images(run.source)
    return run


def _train_and_judge(run: Run, log: Log) -> None:
    """Train to the end, with scores between epochs where asked and after the last. Collective."""
    every = run.settings.eval.every_epochs
    for epoch in train(run, log):
        if every is not None and not epoch.clock.finished and epoch.clock.whole_epochs % every == 0:
            scores = epoch_scores(run, epoch.state, epoch.clock)
            if scores:  # a source without ground truth has none
                log.metrics("eval", epoch.clock.step, epoch.clock.epoch, scores)
                log.say("    " + "  ".join(f"{name} {value:.4f}" for name, value in scores.items()))
    evaluate(run)
    if run.directory is not None:
        run.directory.set_status("completed", run.clock.step)
        path = run.directory.path
        drawn = run.settings.eval.report and report_at_end(run, log.warn)
        page = "report.html" if drawn else "clusters.png"
        log.say(f"run directory: {path}")
        log.say(f"next: look at {path}/{page} and {path}/assignments.csv;")
        log.say(f"      python main.py evaluate {path}      gives the scores again")
        log.say(f"      python main.py predict {path} IMAGES   gives the clusters of other images")


def _require_same(settings: Settings, existing: RunDirectory) -> None:
    require_same(settings, load_settings(compose([existing.config]), launched_world()))
