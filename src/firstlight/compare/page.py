"""A comparison as one HTML file, which needs no network and no server."""

import json
from importlib.resources import files
from typing import Any


def comparison_page(found: dict[str, Any]) -> str:
    """The page. What runs have written is JSON in it and text on the screen, never HTML."""
    template = files("firstlight.compare").joinpath("page.html").read_text(encoding="utf-8")
    # Without "<" no sample can close the <script> that the data is in.
    data = json.dumps(found, allow_nan=False).replace("<", "\\u003c")
    return template.replace("/*data*/null", data, 1)
