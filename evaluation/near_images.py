"""The images that lie nearest to one image in a run's embedding: lines for a terminal, and a picture of them."""

from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from evaluation.given_images import Squares
from evaluation.knn import nearest_rows
from evaluation.load_run import LoadedRun, Predictions
from utils.errors import visible
from utils.files import write_bytes

NEAREST = 12
COLUMNS, SMALLEST, GAP = 4, 64, 4


def show_nearest(run: LoadedRun, image: Path, found: Predictions | None, squares: Squares | None, sheet: Path) -> str:
    """Lines on the 12 images nearest to `image`, by cosine of the embedding; writes them as a picture to `sheet`.

    found, squares: the images to search, as `run.predict(squares)` found them; None: the images of the run's data set.
    """
    source, state = run.run.source, run.run.state
    query = run.squares(image)
    if found is None or squares is None:
        features = run.embed_training_images()
        clusters = state.labels.cpu() if state is not None and state.labels is not None else None
        words = f"{source.name} ({source.protocol})"
    else:
        features, clusters, words = found.features, found.cluster, f"{len(found.paths):,} images"
    cosine, position = (part[0] for part in nearest_rows(features, run.embed(query), neighbors=NEAREST))
    lines = [f"nearest to {image} in {words}, by cosine of the {run.run.method.embed_name}:"]
    for rank, row in enumerate(position.tolist()):
        path = source.path(row) if found is None else found.paths[row]
        own = "" if clusters is None else f"cluster {int(clusters[row])}  "
        lines.append(f"  distance {abs(1 - float(cosine[rank])):.4f}  {own}{path}")
    if found is None or squares is None:
        pictures = source.read(position)
    else:
        kept = squares.kept()
        pictures = squares.read([kept[row] for row in position.tolist()])
    _write_sheet(query.read([0]), pictures.cpu(), sheet)
    return "\n".join(visible(line) for line in [*lines, f"their picture: {sheet}"])


def _write_sheet(query: Tensor, pictures: Tensor, path: Path) -> None:
    """`query` (1, C, H, W) on the left, `pictures` (n, C, H, W) beside it, the nearest first, in rows of four."""
    times = max(1, -(-SMALLEST // query.shape[3]))  # small images are enlarged
    images = torch.cat([query.cpu(), pictures]).repeat_interleave(times, 2).repeat_interleave(times, 3)
    images = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).contiguous()  # (1 + n, H', W', 3)
    high, wide = images.shape[1] + GAP, images.shape[2] + GAP
    sheet = Image.new("RGB", ((COLUMNS + 1) * wide + 3 * GAP, -(-len(pictures) // COLUMNS) * high + GAP), "white")
    sheet.paste(Image.fromarray(images[0].numpy()), (GAP, GAP))
    for place, pixels in enumerate(images[1:].numpy()):
        row, column = divmod(place, COLUMNS)
        sheet.paste(Image.fromarray(pixels), ((column + 1) * wide + 3 * GAP, GAP + row * high))
    file = BytesIO()
    sheet.save(file, "PNG")
    write_bytes(path, file.getvalue())
