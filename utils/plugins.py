'''A user's own methods, encoders and data sets, from Python files named in the config: `run.plugins: [my_parts.py]`.

Such a file holds one or more of the tables METHODS, ENCODERS and SOURCES, names to classes or functions, and is run
once, as trusted as any program of the user's. What it names can then be asked for like what ships. The whole of one:

    """A shallow network, the digits as negatives, and a method that predicts one view from the other."""

    import torch.nn.functional as F
    from pydantic import Field
    from torch import nn

    from data.sources.digits import Digits
    from models.method import Method, MethodConfig


    def shallow(config, image_shape):  # encoder.name: shallow; (B, C, H, W) to (B, features)
        return nn.Sequential(nn.Conv2d(image_shape[0], 24, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


    class SiameseConfig(MethodConfig):
        """What the section `method` may hold."""

        name: str = Field("siamese", description="the method")
        width: int = Field(64, ge=1, description="width of the projection")


    class Siamese(Method):  # method.name: siamese
        Config = SiameseConfig

        def __init__(self, encoder, feature_dim, config, estep, n_clusters):
            super().__init__(estep, n_clusters)
            self.encoder, self.projector = encoder, nn.Linear(feature_dim, config.width)
            hidden = [nn.Linear(config.width, 2 * config.width), nn.BatchNorm1d(2 * config.width), nn.ReLU()]
            self.predictor = nn.Sequential(*hidden, nn.Linear(2 * config.width, config.width))

        def loss(self, batch, state, clock):
            first, second = (self.projector(self.encoder(view)) for view in batch.views)
            forth = F.cosine_similarity(self.predictor(first), second.detach()).mean()
            back = F.cosine_similarity(self.predictor(second), first.detach()).mean()
            return {"loss": -(forth + back) / 2}

        def embed(self, images):
            return F.normalize(self.projector(self.encoder(images)), dim=1)

        def encode(self, images):
            return self.encoder(images)

        def parameter_groups(self):
            online = [*self.encoder.parameters(), *self.projector.parameters()]
            return {"online": online, "predictor": list(self.predictor.parameters())}


    class Negative(Digits):  # data.name: negative; a set of its own keeps the contract of data/sources/base.py
        def read(self, rows=None):
            return 255 - super().read(rows)


    METHODS, ENCODERS, SOURCES = {"siamese": Siamese}, {"shallow": shallow}, {"negative": Negative}
'''

import runpy
import traceback
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from utils.errors import UserError

TABLES = ("METHODS", "ENCODERS", "SOURCES")


def load_plugins(paths: Sequence[Path], known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """METHODS, ENCODERS and SOURCES of the files together, to be laid over the tables `known` of these names.

    A file is run once in a process, however often it is named, so that loading the same twice gives the same.

    Raises:
        UserError: a file that cannot be run or has none of the tables, or a name that is taken already.
    """
    found: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    for path in paths:
        for table, entries in _load(path.resolve()).items():
            taken = {**known.get(table, {}), **found[table]}
            for name, entry in entries.items():
                if taken.get(name, entry) is not entry:
                    raise UserError(str(path), f"{table} names {name!r}, which exists already", "choose another name")
            found[table] |= entries
    return found


@cache
def _load(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        raise UserError("run.plugins", f"{path} does not exist")
    try:
        names = runpy.run_path(str(path))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # also what ends a program, such as sys.exit
        reason = str(error).strip().partition("\n")[0]
        problem = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
        raise UserError(f"{path}:{_line(error, path)}", problem) from None
    tables = {table: names[table] for table in TABLES if table in names}
    if not tables:
        raise UserError(str(path), "has none of the tables METHODS, ENCODERS and SOURCES", "name its parts in one")
    for table, entries in tables.items():
        _check(path, table, entries)
    return tables


def _check(path: Path, table: str, entries: Any) -> None:
    if not isinstance(entries, dict) or not all(isinstance(name, str) for name in entries):
        raise UserError(str(path), f"{table} is not a dict of names", f'for instance {table} = {{"mine": Mine}}')
    for name, entry in entries.items():
        place = f"{path}: {table}[{name!r}]"
        lacking = sorted(getattr(entry, "__abstractmethods__", ()))
        if lacking:
            raise UserError(place, f"lacks {', '.join(lacking)}")
        if not callable(entry) or (table == "METHODS" and not hasattr(entry, "Config")):
            what = "a class with a Config" if table == "METHODS" else "a class or function"
            raise UserError(place, f"is not {what}")


def _line(error: BaseException, path: Path) -> int:
    """The line of the file where the error arose; 1 where it did not get that far."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return (lines[-1] if lines else None) or 1
