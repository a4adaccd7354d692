"""A linear evaluation in words: its protocol in one line, its classifiers as a table."""

from typing import Any

from evaluation.linear_settings import LinearSettings


def describe(settings: LinearSettings) -> str:
    """The protocol in one line: what is learnt, from what, how."""
    method, optim = settings.method, settings.optim
    seen = "clean images, encoded once" if method.mode == "cached" else "random views, encoded every epoch"
    what = "fine-tuning of the whole encoder" if method.finetune else "linear classifier on the frozen encoder"
    rates = settings.learning_rates
    peaks = [rate * optim.global_batch / 256 for rate in rates]
    rate = f"learning rate {peaks[0]:g}"
    if len(peaks) > 1:
        rate = f"{len(peaks)} learning rates {min(peaks):g} to {max(peaks):g}"
    decay = f", weight decay {optim.weight_decay:g}" if optim.weight_decay else ""
    return (
        f"{settings.protocol}: {what}, {seen}; {optim.name}, {rate} ({optim.schedule}), batches of "
        f"{optim.global_batch}, {optim.epochs} epochs{decay}, {optim.precision}"
    )


def table(result: dict[str, Any]) -> str:
    """Every classifier; the chosen one, which counts, has a star."""
    wide = max(len(head["features"]) for head in result["heads"] + [{"features": "features"}])
    lines = [
        f"  {'features':{wide}}  learning rate  held-out   top-1   top-5  top-1 of the best epoch (chosen on test)"
    ]
    for number, head in enumerate(result["heads"]):
        star = "*" if number == result["chosen"] else " "
        held = "       -" if head["held_out"] is None else f"{head['held_out']:8.4f}"
        lines.append(
            f"{star} {head['features']:{wide}}  {head['learning_rate']:13.6g}  {held}  {head['top1']:.4f}  "
            f"{head['top5']:.4f}  {head['best_top1']:.4f} ({head['best_epoch']})"
        )
    how = "" if len(result["heads"]) == 1 else ", the classifier chosen on held-out train rows"
    after = f"on test rows after the last of {result['epochs']} epochs{how}"
    lines.append(f"top-1 {result['top1']:.4f}, top-5 {result['top5']:.4f} {after}")
    return "\n".join(lines)


def one_line(result: dict[str, Any]) -> str:
    """A result beside others."""
    return f"{result['checkpoint']}: top-1 {result['top1']:.4f}, top-5 {result['top5']:.4f} ({result['protocol']})"
