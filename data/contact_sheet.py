"""A picture of what the model sees: images beside their random views."""

from PIL import Image
from torch import Tensor

from data.views import Views
from utils.draws import Draws

GAP = 4  # pixels between pictures, and twice that between images
SMALLEST = 64  # pixels a side of a picture


def contact_sheet(images: Tensor, views: Views, n: int, *, seed: int = 0, columns: int = 4) -> Image.Image:
    """A grid of the first `n` images (uint8, (B, C, H, W)), each followed by its views as they are before normalising.

    Small images, and local crops, are enlarged to at least 64 pixels. `.save("views.png")` writes it.
    """
    images = images[:n]
    draws = Draws(seed=seed, step=0, start=0, stop=len(images), total=len(images))
    seen = [images, *(views.restore(view) for view in views(images, draws))]
    pictures = [_enlarged(pixels).cpu() for pixels in seen]  # each (n, H, W, 3)
    height = max(pixels.shape[1] for pixels in pictures) + GAP
    width = max(pixels.shape[2] for pixels in pictures) + GAP
    cell = len(pictures) * width + GAP
    columns = min(columns, len(images))
    sheet = Image.new("RGB", (columns * cell + GAP, -(-len(images) // columns) * (height + GAP) + GAP), "white")
    for number in range(len(images)):
        top, left = GAP + (number // columns) * (height + GAP), GAP + (number % columns) * cell
        for place, pixels in enumerate(pictures):
            sheet.paste(Image.fromarray(pixels[number].numpy()), (left + place * width, top))
    return sheet


def _enlarged(pixels: Tensor) -> Tensor:
    """(n, H', W', 3) of (n, C, H, W) uint8, each pixel repeated; one channel as grey."""
    times = max(1, -(-SMALLEST // pixels.shape[3]))
    pixels = pixels.repeat_interleave(times, 2).repeat_interleave(times, 3)
    return pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()
