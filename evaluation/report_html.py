"""One HTML file of the page's parts: style, script and data inside, nothing fetched."""

import base64
import hashlib
import json
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from utils.files import json_ready

PARTS = Path(__file__).parent / "report_page"
SCRIPTS = (
    "elements.js", "data.js", "summary.js", "charts.js", "clusters.js", "pixels.js", "map_view.js", "map.js",
    "choose.js", "page.js",
)  # fmt: skip


def build_page(data: dict[str, Any], title: str) -> str:
    """The page as text. Whatever stands in `data` is data to it: no part of it is read as HTML or as a program.

    The browser is told to run this script alone and to reach no network.
    """
    style = (PARTS / "report.css").read_text(encoding="utf-8")
    script = "\n".join((PARTS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    page = (PARTS / "report.html").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; img-src data:; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    values = {"policy": policy, "title": escape(title), "style": style, "script": script, "data": as_script(data)}
    for name, value in values.items():  # data comes last: what it holds is not searched for names
        page = page.replace(f"@@{name}@@", value, 1)
    return page


def as_script(data: dict[str, Any]) -> str:
    """JSON that ends no <script> and begins no comment, whatever its strings hold."""
    text = json.dumps(json_ready(data), separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def escape(text: str) -> str:
    """Text as HTML shows it."""
    for mark, word in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&quot;"), ("'", "&#39;")):
        text = text.replace(mark, word)
    return text


def packed(values: NDArray[Any]) -> str:
    """The bytes of an array, little-endian, deflated, in base64."""
    return _packed(values.astype(values.dtype.newbyteorder("<")).tobytes())


def packed_json(value: Any) -> str:
    """JSON, deflated, in base64: long lists of names."""
    return _packed(json.dumps(value, separators=(",", ":")).encode())


def _packed(data: bytes) -> str:
    return base64.b64encode(zlib.compress(data, 9)).decode("ascii")


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
