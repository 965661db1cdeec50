"""Where downloads and trained vocabularies are kept between runs."""

import os
from pathlib import Path

import pooch


def cache_dir() -> Path:
    """`$FIRSTLIGHT_CACHE_DIR`, or the user's cache folder of this operating system."""
    return Path(os.environ.get("FIRSTLIGHT_CACHE_DIR") or pooch.os_cache("firstlight"))
