"""MODEL_CARD.md beside an export: what it is, how it is used, what it was measured at, what its data allow."""

import json
from pathlib import Path
from typing import Any

from evaluation.export_contents import Contents
from utils.files import read_json

CARD = "MODEL_CARD.md"
IMAGENET = "non-commercial research and education, by the terms of access of ImageNet"
# what the publishers of a data set say; to be read again at the source before anything depends on it
LICENCES = {
    "digits": "CC BY 4.0, as the UCI repository states for Optical Recognition of Handwritten Digits",
    "mnist": "not stated by its publishers; copies elsewhere name CC BY-SA 3.0",
    "fashion_mnist": "MIT, as its repository states",
    "svhn": "for non-commercial use only, as its publishers state",
    "cifar10": "not stated; its publishers ask to cite Krizhevsky 2009",
    "cifar20": "not stated; its publishers ask to cite Krizhevsky 2009",
    "cifar100": "not stated; its publishers ask to cite Krizhevsky 2009",
    "stl10": f"not stated; its images come from ImageNet: {IMAGENET}",
    "imagenet": IMAGENET,
    "imagenet10": f"{IMAGENET}, of which it is a part",
    "imagenet_dogs": f"{IMAGENET}, of which it is a part",
    "tiny_imagenet": f"not stated; its images come from ImageNet: {IMAGENET}",
}


def model_card(contents: Contents, to: str, path: Path, code: str, checked: list[str]) -> str:
    """The card as Markdown.

    path: the run's folder. code: what makes `outputs` of `pixels` in the folder of the card. checked: what the check of
    the export said.
    """
    run, settings = contents.run, contents.run.settings
    begun = "" if run.clock.finished else f" (of {settings.optim.epochs}: training had not ended)"
    facts = {
        "holds": "the encoder alone" if contents.state is None else "encoder and clusters",
        "method": settings.method.name,
        "encoder": f"{settings.encoder.name}{_stem(contents)}, trained in {settings.optim.precision}",
        "data": f"{run.source.name}, {run.source.protocol}",
        "clusters": str(run.method.n_clusters) if contents.state is not None else "not in it",
        "epochs": f"{run.clock.epoch:g}{begun}",
        "seed": str(settings.run.seed),
        "run": path.resolve().name,
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""# {settings.method.name} on {run.source.name}: {facts["holds"]}, as {to}

| | |
|---|---|
{table}

## Use

An image becomes `pixels`, float32 (B, {", ".join(map(str, contents.shape))}) from 0 to 1; batches of any size.
{_inside(contents, to)}

```python
{_reading(contents, to)}```

In the folder of this card:

```python
{code}```

`outputs` holds {_outputs(contents)}.

## Check

{". ".join(line[0].upper() + line[1:] for line in checked)}. The export computes in float32{_bf16(contents)}.

## Numbers

{_numbers(path)}

## Labels

{_labels(contents)}

## Licence of the data

{LICENCES.get(settings.data.name, "not stated: images of one's own")}.
What it means for weights that were learnt from them is not said here.
"""


def _stem(contents: Contents) -> str:
    config = contents.run.settings.encoder
    return f" (stem {config.stem})" if config.name.startswith("resnet") else ""


def _inside(contents: Contents, to: str) -> str:
    mean, std = contents.normal
    where = "takes place inside" if to in ("torch-export", "onnx") else "is in the code below"
    edges = ", followed by Sobel edges," if contents.run.settings.views.sobel else ""
    return f"Normalising (mean {list(mean)}, deviation {list(std)}){edges} {where}."


def _reading(contents: Contents, to: str) -> str:
    """Python from an image file to `pixels`."""
    run, (channels, height, width) = contents.run, contents.shape
    mode, share, original = "L" if channels == 1 else "RGB", run.settings.views.test_crop, run.source.image_shape[1:]
    lines = ["import numpy as np", "from PIL import Image, ImageOps", ""]
    if to != "onnx":
        lines.insert(1, "import torch")
    lines += [f'image = ImageOps.exif_transpose(Image.open("image.png")).convert("{mode}")']
    box = ""
    if run.settings.data.resize == "crop":
        lines += ["side = min(image.size)", "left, top = (image.width - side) / 2, (image.height - side) / 2"]
        box = ", box=(left, top, left + side, top + side)"
    lines += [f"image = image.resize(({original[1]}, {original[0]}), Image.Resampling.BICUBIC{box})"]
    whole = round(height / share), round(width / share)
    if whole != tuple(original):
        lines += [f"image = image.resize(({whole[1]}, {whole[0]}), Image.Resampling.BILINEAR)"]
    if whole != (height, width):
        top, left = round((whole[0] - height) / 2), round((whole[1] - width) / 2)
        lines += [f"image = image.crop(({left}, {top}, {left + width}, {top + height}))"]
    shape = f"reshape({height}, {width}, {channels}).transpose(2, 0, 1)[None]"
    lines += [f"pixels = np.ascontiguousarray(np.asarray(image, np.float32).{shape}) / 255"]
    if to != "onnx":
        lines += ["pixels = torch.from_numpy(pixels)"]
    return "\n".join(lines) + "\n"


def _outputs(contents: Contents) -> str:
    feature = f"`feature` (B, D): {contents.feature_name}"
    if contents.state is None:
        return f"{feature}, as the encoder gives it"
    k = contents.run.method.n_clusters
    return f"{feature}, in which images are compared; `cluster` (B,) from 0 to {k - 1}; `probability` (B, {k}) of each"


def _bf16(contents: Contents) -> str:
    if contents.run.settings.optim.precision != "bf16":
        return ""
    return "; the run's own assignments.csv was computed in bfloat16, and a few images between clusters may differ"


def _numbers(path: Path) -> str:
    """The scores that the run's evaluation.json holds, each with its protocol."""
    file = path / "evaluation.json"
    if not file.is_file():
        return f"None measured: `main.py evaluate {path}` measures them."
    result = read_json(file)
    lines: list[tuple[str, str]] = []
    k = f"K = {result['n_clusters']}, epoch {result['epoch']:g}, seed {result['seed']}"
    clustered = [("clusters", result), ("KMeans", result.get("embedding") or {})]
    for name, row in [*clustered, *((row["name"], row) for row in result.get("baselines", []))]:
        if row.get("scores"):
            lines.append((f"{name} of {row['features']}: {_scores(row['scores'])}", f"{result['protocol']}; {k}"))
    for name in ("knn", "linear"):
        if result.get(name):
            found = result[name]
            lines += [(f"{name} on {found['features']}: accuracy {found['accuracy']:.4f}", found["protocol"])]
    if result.get("retrieval"):
        found = result["retrieval"]
        numbers = {key: value for key, value in found.items() if isinstance(value, float)}
        lines += [(f"retrieval on {found['features']}: {_scores(numbers)}", found.get("protocol", ""))]
    if not lines:
        return "None: the images have no known classes to score by."
    return "| measured | protocol |\n|---|---|\n" + "\n".join(f"| {what} | {how} |" for what, how in lines)


def _scores(scores: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in scores.items())


def _labels(contents: Contents) -> str:
    settings = contents.run.settings
    encoder = settings.encoder
    told = ["Labels never trained this network in its run; they were read for the scores alone."]
    if settings.estep.n_clusters is None:
        told.append("The number of clusters is the number of classes of the data set: that much was known.")
    if encoder.pretrained:
        told.append("It began with published weights, most of which were learnt with labels.")
    for start, from_what in ((encoder.checkpoint, "the weights in"), (settings.run.init_from, "the run")):
        if start is not None:
            told.append(f"It began with {from_what} {json.dumps(start.name)}, to which this says nothing.")
    return " ".join(told)
