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
    """`$FIRSTLIGHT_CACHE_DIR`, or the user's cache folder of this operating system.

    A user without a home folder (a user id of a container that the system has no name for) has none: then it is a
    temporary folder, which is removed when the process ends.
    """
    if chosen := os.environ.get("FIRSTLIGHT_CACHE_DIR"):
        return user_path(chosen)
    try:
        return Path(pooch.os_cache("firstlight"))
    except RuntimeError:  # platformdirs': it finds no home
        return _temporary()


@functools.cache
def _temporary() -> Path:
    folder = tempfile.mkdtemp(prefix="firstlight_cache_")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    note("there is no home folder to keep caches in; set FIRSTLIGHT_CACHE_DIR to keep them")
    return Path(folder)
