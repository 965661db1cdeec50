"""With lacks.so preloaded: runs on file systems that lack something; print what came of each.

usage: lacks_loop.py FOLDER
"""

import contextlib
import ctypes
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from tiny_run import TINY

from firstlight.cli import main

library = ctypes.CDLL(None)
TEXT = "The lamp was lit, and the lamp went out; nobody on the quay had seen who did it. " * 12
BEGIN = ["train", *TINY, "trainer.max_steps=2", "trainer.eval_every_n_steps=2", "output_dir=run"]
RESUME = ["train", "resume=run", "trainer.max_steps=4"]
LACKING = [
    ("fsync of a folder", errno.EINVAL), ("chmod", errno.EPERM), ("flock", errno.ENOLCK), ("flock", errno.ENOSYS),
    ("link", errno.EPERM), ("utime", errno.EPERM), ("statvfs", errno.ENOSYS),
    ("replacing", errno.EPERM), ("replacing", errno.EEXIST), ("fsync", errno.ENOSYS), ("mmap", errno.ENODEV),
]  # fmt: skip


def said(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(arguments)
    return code, err.getvalue()


def files():
    return sorted(str(file) for file in Path().rglob("*"))


def tried(what, number):
    """Exit codes and words of a run that begins there, of a healthy one that is resumed there, and
    what is new.
    """
    before = files()
    library.lacks_set(what.encode(), number)
    begun = said(BEGIN)
    library.lacks_set(b"", 0)
    left = [name for name in files() if name not in before] if begun[0] else []
    shutil.rmtree("run", ignore_errors=True)
    assert said(BEGIN)[0] == 0
    library.lacks_set(what.encode(), number)
    resumed = said(RESUME)
    evaluated = said(["generate", "checkpoint=run", "prompt=lamp", "max_new_tokens=2"])
    library.lacks_set(b"", 0)
    healthy = said(RESUME)[0] if resumed[0] else 0
    shutil.rmtree("run")
    return {
        "begun": begun,
        "resumed": resumed,
        "generated": evaluated,
        "left": left,
        "resumed elsewhere": healthy,
    }


if __name__ == "__main__":
    os.chdir(sys.argv[1])
    Path("text.txt").write_text(TEXT)
    print(
        json.dumps(
            {f"{what} {errno.errorcode[number]}": tried(what, number) for what, number in LACKING}
        )
    )
