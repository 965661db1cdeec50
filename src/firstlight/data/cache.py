"""Where downloads and trained vocabularies are kept between runs."""

import atexit
import functools
import os
import shutil
import tempfile
from pathlib import Path

import pooch

from firstlight.data.files import user_path
from firstlight.output import note


def cache_dir() -> Path:
    """Return `$FIRSTLIGHT_CACHE_DIR` or, if unset, the operating system's cache folder.

    A user without a home folder (such as a nameless user id in a container) gets a temporary
    folder, which is removed when the process ends.
    """
    chosen = os.environ.get("FIRSTLIGHT_CACHE_DIR")
    if chosen:
        return user_path(chosen)
    try:
        return Path(pooch.os_cache("firstlight"))
    except RuntimeError:
        # platformdirs, which pooch asks, found no home folder.
        return _temporary()


@functools.cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="firstlight_cache_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    note(
        "no home folder: caches are lost when this process ends; set FIRSTLIGHT_CACHE_DIR to keep"
        " them"
    )
    return Path(folder)
