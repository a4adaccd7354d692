"""SVHN's MATLAB files."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from data.sources.base import DataConfig
from data.sources.svhn import SVHN
from data.store import open_source
from tests.official_files import publish, random_images


def mat(images: np.ndarray, labels: list[int]) -> bytes:
    buffer = io.BytesIO()
    savemat(buffer, {"X": images.transpose(2, 3, 1, 0), "y": np.array(labels, np.uint8)[:, None]})  # (H, W, C, n)
    return buffer.getvalue()


def test_images_are_upright_and_class_ten_is_the_digit_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = random_images(5, 3, 32, 32), random_images(3, 3, 32, 32)
    files = {"train_32x32.mat": mat(train, [10, 1, 9, 10, 5]), "test_32x32.mat": mat(test, [2, 10, 7])}
    publish(monkeypatch, SVHN, tmp_path, files)
    source = open_source(DataConfig(name="svhn", root=tmp_path, download=False))
    assert torch.equal(source.read(), torch.from_numpy(np.concatenate([train, test])))
    truth, split = source.read_truth(), source.knn_split()
    assert truth is not None
    assert split is not None
    assert truth.tolist() == [0, 1, 9, 0, 5, 2, 0, 7]
    assert split[1].tolist() == [5, 6, 7]
