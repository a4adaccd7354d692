"""DINO's loss and center (Caron et al., ICCV 2021) in slow float64 loops."""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax_loop(values: Array) -> list[float]:
    """e^value over their sum."""
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


def dino_loop(
    student: list[Array], teacher: list[Array], center: Array, student_temperature: float, teacher_temperature: float
) -> float:
    """Mean over pairs of a teacher's view and another crop of the student's cross-entropy from the teacher."""
    losses = []
    for view, targets in enumerate(teacher):
        for crop, logits in enumerate(student):
            if crop == view:
                continue
            loss = 0.0
            for target, row in zip(targets, logits, strict=True):
                q = softmax_loop((target - center) / teacher_temperature)
                p = softmax_loop(row / student_temperature)
                loss -= sum(a * math.log(b) for a, b in zip(q, p, strict=True)) / len(logits)
            losses.append(loss)
    return sum(losses) / len(losses)


def center_loop(center: Array, teacher: list[Array], momentum: float) -> Array:
    """momentum * center + (1 - momentum) * mean over views and rows of the teacher's logits."""
    rows = [row for view in teacher for row in view]
    mean = [sum(row[k] for row in rows) / len(rows) for k in range(len(center))]
    return np.array([momentum * old + (1 - momentum) * new for old, new in zip(center, mean, strict=True)])
