"""A picture of the clusters: clusters.png, a row a cluster, its surest images first."""

from pathlib import Path

from PIL import Image

from evaluation.predict import Assignments
from training.build import Run

PER_CLUSTER, MOST_CLUSTERS, SHORTEST_SIDE, GAP = 16, 50, 32, 2


def write_picture(run: Run, found: Assignments, path: Path) -> None:
    """Write `path`: of each of the first 50 clusters the 16 images of the greatest confidence. Rank 0 alone calls."""
    n_clusters = min(run.method.n_clusters, MOST_CLUSTERS)
    _, height, width = run.source.image_shape
    enlarge = max(1, -(-SHORTEST_SIDE // min(height, width)))
    high, wide = height * enlarge + GAP, width * enlarge + GAP
    sheet = Image.new("RGB", (PER_CLUSTER * wide + GAP, n_clusters * high + GAP), "white")
    for cluster in range(n_clusters):
        rows = (found.cluster == cluster).nonzero()[:, 0]
        surest = rows[found.confidence[rows].argsort(descending=True, stable=True)[:PER_CLUSTER]]
        for place, image in enumerate(run.source.read(surest)):  # (C, H, W)
            pixels = image.expand(3, -1, -1).permute(1, 2, 0).contiguous()
            picture = Image.fromarray(pixels.numpy())
            picture = picture.resize((wide - GAP, high - GAP), Image.Resampling.NEAREST)
            sheet.paste(picture, (GAP + place * wide, GAP + cluster * high))
    sheet.save(path)
