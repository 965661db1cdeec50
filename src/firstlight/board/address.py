"""The address under which TensorBoard shows runs in the colours of what was swept."""

import re
from urllib.parse import quote, urlencode

from firstlight.compose.compose import slug

POINT = r"^(?:.*/)?(?:\d+_)?(.*?)(?:_seed-\d+)?$"
"""Of the name of a run (a trial's: `SWEEP/3_optimizer.lr-0.001_seed-2`) what is neither its number
nor its seed. Read by JavaScript and by Python, to both of which it means the same."""


def color_pattern(color: str) -> str | None:
    """The regular expression whose group decides the colour of a run; None: each has its own.

    `color` is "auto", "run" or the key of a sweep.
    """
    if color == "run":
        return None
    if color == "auto":
        return POINT
    key = re.escape(slug(color))
    # A value ends where the next key begins.
    return rf"(?:^|[/_]){key}-(.+?)(?=_[a-z]+(?:\.\w+)*-|$)"


def address(url: str, *, color: str, smoothing: float) -> str:
    """The page of a TensorBoard at `url`, with its settings in the query string."""
    pattern = color_pattern(color)
    group = "run" if pattern is None else f"regex:{pattern}"
    query = urlencode({"smoothing": f"{smoothing:g}", "runColorGroup": group}, quote_via=quote)
    return f"{url.rstrip('/')}/?{query}#timeseries"
