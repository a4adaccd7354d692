"""Linear evaluation of a run: what many learning rates cost at once, and how it compares with scikit-learn.

    python benchmarks/linear.py runs/NAME

Cost: seconds of an epoch with one and with ten learning rates, side by side, medians of interleaved repeats: on
features of clean images that are kept, and on views that the encoder sees anew (`online`). Accuracy: the logistic
regression of `main.py evaluate` and scikit-learn's on the same standardised features, the same split and the same L2,
and the protocol `sweep` of `main.py linear`.
"""

import argparse
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from data.sampler import Sampler
from evaluation.knn import encode_part
from evaluation.label_split import train_and_test
from evaluation.linear import judge
from evaluation.linear_features import reader
from evaluation.linear_feed import Cached, Online, encode_rows
from evaluation.linear_heads import Heads
from evaluation.linear_probe import score_linear
from evaluation.linear_settings import load_linear, open_protocol
from evaluation.linear_subject import Subject, open_subject
from training.begin import open_run
from training.init_from import stored_settings
from training.optim import OptimConfig
from training.run_dir import find_run
from utils.clock import Clock
from utils.doctor import environment
from utils.files import write_json

RATES = tuple(0.01 * 2.5**number for number in range(10))
BARS = {"online": 1.5, "cached": 0.5}  # ten at once: over one; over ten runs of one
CPU = torch.device("cpu")


def main(arguments: list[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--repeats", type=int, default=5, help="epochs of each kind (default: %(default)s)")
    parser.add_argument("--online-rows", type=int, default=10_000, help="train rows of an online epoch at most")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    settings = load_linear(open_protocol("sweep", None, []), options.run, 1)
    subject = open_subject(settings, CPU)
    print(f"{options.run}: {subject.trained}; {subject.rows.words}")
    precision = settings.optim.precision
    read, _ = reader(subject.encoder, subject.width, ["output"])
    features, classes = encode_rows(subject, read, subject.rows.fitted, precision, "train")
    cached = Cached(features, classes, Sampler(len(features), 256, 0))
    n_online = max(256, min(options.online_rows, len(features)))
    online = Online(subject, read, Sampler(n_online, 256, 0), precision, 0)
    found = {"cached": ratio(subject, cached, options.repeats), "online": ratio(subject, online, options.repeats)}
    print("\n| features | one rate, s | ten at once, s | ten / one | ten / ten runs | bar |\n|---|---|---|---|---|---|")
    for kind, (one, ten) in found.items():
        share = ten / one if kind == "online" else ten / one / 10
        print(f"| {kind} | {one:.3f} | {ten:.3f} | {ten / one:.2f} | {ten / one / 10:.2f} | "
              f"{'holds' if share < BARS[kind] else 'missed'} ({BARS[kind]}) |")  # fmt: skip
    accuracies = compare(options.run)
    accuracies["sweep"] = judge(settings, CPU)["top1"]
    print("\n| classifier | test accuracy |\n|---|---|")
    print("\n".join(f"| {name} | {value:.4f} |" for name, value in accuracies.items()))
    if options.json:
        write_json(options.json, {"seconds": found, "accuracy": accuracies, "machine": environment()})
    return 0


def ratio(subject: Subject, feed: Cached | Online, repeats: int) -> tuple[float, float]:
    """Median seconds of an epoch with one learning rate, and with ten."""
    like = torch.zeros(())
    width, n_classes, config = subject.width, subject.rows.n_classes, OptimConfig(weight_decay=0.0)
    heads = [
        Heads([slice(0, width)], rates, width, n_classes, config, seed=0, like=like) for rates in (RATES[:1], RATES)
    ]
    seconds: list[list[float]] = [[], []]
    for repeat in range(repeats + 1):
        for one, spent in zip(heads, seconds, strict=True):
            started = time.perf_counter()
            for features, classes in feed.epoch(repeat):
                one.step(features, classes, 256, Clock(0, feed.steps_per_epoch, 1))
            spent.append(time.perf_counter() - started)
    one, ten = (statistics.median(spent[1:]) for spent in seconds)  # the first is a warm-up
    return one, ten


def compare(path: Path) -> dict[str, float]:
    """Test accuracy of our logistic regression and of scikit-learn's, with the L2 that ours has chosen."""
    run = open_run(stored_settings(path), find_run(path), CPU)
    ours = score_linear(run)
    assert ours is not None
    truth = run.source.read_truth(None)
    assert truth is not None
    train, test, _ = train_and_test(run.source, truth)
    (fitted, classes), (judged, true) = (encode_part(run, rows, truth) for rows in (train, test))
    scaler = StandardScaler().fit(fitted.numpy())
    model = LogisticRegression(C=1 / (ours["l2"] * len(fitted)), tol=1e-6, max_iter=2_000)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(scaler.transform(fitted.numpy()), classes.numpy())
    theirs = model.score(scaler.transform(judged.numpy()), true.numpy())
    return {f"main.py evaluate (L2 {ours['l2']:g})": ours["accuracy"], "scikit-learn, same L2": float(theirs)}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
