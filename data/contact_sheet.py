"""A picture of what the model sees: images beside their random views."""

import torch
from PIL import Image
from torch import Tensor

from data.views import Views
from utils.draws import Draws

GAP = 4  # pixels between pictures, and twice that between images


def contact_sheet(images: Tensor, views: Views, n: int, *, seed: int = 0, columns: int = 4) -> Image.Image:
    """A grid of the first `n` images (uint8, (B, C, H, W)), each followed by its views as they are before normalising.

    Small images are enlarged to at least 64 pixels. `.save("views.png")` writes it.
    """
    images = images[:n]
    draws = Draws(seed=seed, step=0, start=0, stop=len(images), total=len(images))
    seen = [views.restore(view) for view in views(images, draws)]
    pictures = torch.stack([images, *seen], 1)  # (n, 1 + views, C, H, W)
    enlarge = max(1, -(-64 // pictures.shape[-1]))
    pictures = pictures.repeat_interleave(enlarge, 3).repeat_interleave(enlarge, 4)
    pictures = pictures.expand(-1, -1, 3, -1, -1).permute(0, 1, 3, 4, 2).cpu()  # (n, 1 + views, H, W, 3)
    height, width = pictures.shape[2] + GAP, pictures.shape[3] + GAP
    cell = pictures.shape[1] * width + GAP
    columns = min(columns, len(pictures))
    sheet = Image.new("RGB", (columns * cell + GAP, -(-len(pictures) // columns) * (height + GAP) + GAP), "white")
    for number, row in enumerate(pictures):
        top, left = GAP + (number // columns) * (height + GAP), GAP + (number % columns) * cell
        for place, picture in enumerate(row):
            sheet.paste(Image.fromarray(picture.numpy()), (left + place * width, top))
    return sheet
