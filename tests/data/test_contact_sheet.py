"""The picture of what the model sees."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from data.contact_sheet import GAP, contact_sheet
from data.views import Views, ViewsConfig

OFF = ViewsConfig(crop_scale=None, flip=0.0, jitter=None, grayscale=0.0)


def test_each_image_stands_beside_its_views(tmp_path: Path) -> None:
    images = torch.randint(0, 256, (5, 3, 64, 64), dtype=torch.uint8)
    views = Views(OFF, (3, 64, 64), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    contact_sheet(images, views, 3, columns=2).save(tmp_path / "sheet.png")
    pixels = torch.from_numpy(np.asarray(Image.open(tmp_path / "sheet.png")).copy())
    cell, line = 3 * (64 + GAP) + GAP, 64 + 2 * GAP
    for number in range(3):
        top, left = GAP + number // 2 * line, GAP + number % 2 * cell
        for place in range(3):  # nothing is on: the views are the image
            seen = pixels[top : top + 64, left + place * (64 + GAP) : left + place * (64 + GAP) + 64]
            assert torch.equal(seen.permute(2, 0, 1), images[number])


def test_small_grey_images_are_enlarged_and_views_differ_from_the_image() -> None:
    images = torch.randint(0, 256, (2, 1, 8, 8), dtype=torch.uint8)
    sheet = contact_sheet(images, Views(ViewsConfig(), (1, 8, 8), (0.3,), (0.4,)), 2)
    assert sheet.height == 64 + 3 * GAP
    left, right = (
        sheet.crop((GAP + place * (64 + GAP), GAP, 64 + GAP + place * (64 + GAP), 64 + GAP)) for place in (0, 1)
    )
    assert left.tobytes() != right.tobytes()


def test_local_crops_other_sizes_and_edges_have_their_places() -> None:
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    config = ViewsConfig.model_validate({"size": 80, "sobel": True, "local": {"number": 2, "size": 18}})
    sheet = contact_sheet(images, Views(config, (3, 32, 32), (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)), 3, columns=1)
    assert sheet.size == (5 * (80 + GAP) + 2 * GAP, 3 * (80 + 2 * GAP) + GAP)
    assert sheet.getpixel((GAP + 3 * (80 + GAP) + 71, GAP + 71)) != (255, 255, 255)  # 18 pixels enlarged to 72
    assert sheet.getpixel((GAP + 3 * (80 + GAP) + 72, GAP + 72)) == (255, 255, 255)
