"""Lists of paths as people write them: a CSV with a header, or a path a line."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from utils.errors import UserError

PATH_COLUMNS = ("path", "file", "filename", "image")
LABEL_COLUMNS = ("label", "class")
DELIMITERS = ",;\t"  # spreadsheets of many countries write semicolons


@dataclass(frozen=True)
class Table:
    """The rows of a list in its order. labels: None without such a column; "" where a row has none."""

    paths: list[str]
    labels: list[str] | None


def read_table(file: Path) -> Table:
    """Read a CSV (columns path or file, filename, image; label or class if there is one) or plain lines of paths.

    A first line that names a path column makes it a CSV, separated by commas, semicolons or tabs. Empty lines are
    passed over.

    Raises:
        UserError: not there, not UTF-8 text, or a CSV without a path column.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise UserError(str(file), f"cannot be read ({error.strerror})", "give a CSV or a list of paths") from None
    except UnicodeDecodeError:
        raise UserError(str(file), "is not UTF-8 text", "save it as UTF-8") from None
    first_line = text.split("\n", 1)[0]
    for delimiter in DELIMITERS:
        header = [cell.strip().strip('"').lower() for cell in first_line.split(delimiter)]
        if any(name in header for name in PATH_COLUMNS):
            return _read_csv(file, text, delimiter, header)
    if file.suffix.lower() in (".csv", ".tsv"):
        raise UserError(str(file), f"no column named path in its first line '{first_line.strip()[:60]}'", "add one")
    return Table([line for line in text.replace("\r\n", "\n").split("\n") if line.strip()], None)


def table_text(rows: Iterable[Sequence[object]]) -> str:
    """The rows as CSV with \\n behind each; a name with a line break of any kind in it is quoted."""
    lines: list[str] = []

    class Lines:
        def write(self, line: str) -> None:
            lines.append(f"{line[:-2]}\n")

    csv.writer(Lines(), lineterminator="\r\n").writerows(rows)  # it quotes only what its own line ends are made of
    return "".join(lines)


def _read_csv(file: Path, text: str, delimiter: str, header: list[str]) -> Table:
    path_column = next(header.index(name) for name in PATH_COLUMNS if name in header)
    label_column = next((header.index(name) for name in LABEL_COLUMNS if name in header), None)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))[1:]
    except csv.Error as error:
        raise UserError(str(file), f"is not a CSV ({error})") from None
    paths, labels = [], []
    for cells in rows:
        if len(cells) > path_column and cells[path_column].strip():
            paths.append(cells[path_column])
            has_label = label_column is not None and label_column < len(cells)
            labels.append(cells[label_column].strip() if has_label else "")  # type: ignore[index]
    return Table(paths, None if label_column is None else labels)
