"""A comparison as one HTML file, which needs no network and no server."""

import json
from importlib.resources import files
from typing import Any

TEMPLATE = "report.html"
PLACE = "/*data*/null"


def report_html(found: dict[str, Any]) -> str:
    """The page. What runs have written (samples, names) is JSON in it, and text on the screen, never HTML."""
    template = (files("firstlight.compare") / TEMPLATE).read_text(encoding="utf-8")
    data = json.dumps(found, allow_nan=False).replace("<", "\\u003c")  # no </script> in it
    before, _, after = template.partition(PLACE)
    return before + data + after
