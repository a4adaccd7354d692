"""torchvision beside a torch build that is not its own: to be prepared before torchvision or timm is imported."""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS: list[torch.library.Library] = []  # torch forgets an operator whose library object is gone
_OPERATORS = ("nms", "qnms")


def prepare_torchvision() -> str:
    """Make `import torchvision` work; 'compiled' where its own operators load, 'schemas' where they are only declared.

    torchvision from PyPI carries CUDA operators. With a CPU build of torch they cannot load, and its import then asks
    for two operators that nobody declared. Declared here without a body, transforms and models work; `ops.nms` and JPEG
    by `torchvision.io` do not. May be called any number of times. 'missing': torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return "missing"
    libraries = [file for folder in spec.submodule_search_locations for file in sorted(Path(folder).glob("_C*.so"))]
    if any(_loads(library) for library in libraries):
        return "compiled"
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            schema = torch.library.Library("torchvision", "FRAGMENT")
            schema.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _SCHEMAS.append(schema)
    return "schemas"


def _loads(library: Path) -> bool:
    try:
        torch.ops.load_library(library)
    except OSError:
        return False
    return True


def installed(package: str) -> bool:
    """Whether `package` can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None
