"""SQLite's way: fail the 1st, 2nd, 3rd, ... operation until nothing fails; after each a good
checkpoint is there.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def preloaded(tmp_path_factory):
    """Run a script of this folder with `faults.so`, or another `source`, preloaded; its
    findings."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("faults are injected by a preloaded library: that takes Linux and a C compiler")
    folder = tmp_path_factory.mktemp("faults")
    if set(" :") & set(str(folder)):
        pytest.skip(
            f"LD_PRELOAD takes no path with a space or a colon ({folder}): that takes another"
            " TMPDIR"
        )

    def run(script, *arguments, source="faults.c"):
        library = folder / f"{source}.so"
        if not library.exists():
            subprocess.run(
                [compiler, "-shared", "-fPIC", "-O1", "-o", library, HERE / source, "-ldl"],
                check=True,
            )
        environment = {**os.environ, "LD_PRELOAD": str(library), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, HERE / script, *map(str, arguments)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def test_a_save_whose_kth_operation_fails_leaves_a_whole_checkpoint(preloaded, tmp_path):
    """Full disk, broken disk, no rights, Ctrl-C, kill -9; the script itself compares every number
    of what is left.
    """
    found = preloaded("save_loop.py", tmp_path)
    assert set(found) == {"ENOSPC", "EIO", "EACCES", "SIGINT", "SIGKILL"}
    for kind, ends in found.items():
        assert ends["operations"] > 15, (
            kind,
            ends,
        )  # every file's open, write, fsync, rename; folders; the old one
        assert ends["old"] > 5 and ends["new"] > 1, (kind, ends)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["SIGKILL", "ENOSPC"])
def test_a_run_whose_kth_operation_fails_goes_on_exactly(preloaded, tmp_path, kind):
    found = preloaded("run_loop.py", tmp_path, kind, 150)
    assert found["operations"] > 300 and found["trials"] > 3


@pytest.mark.long
def test_a_resumed_run_whose_kth_operation_fails_goes_on_exactly(preloaded, tmp_path):
    found = preloaded("run_loop.py", tmp_path, "SIGKILL", 60, "resumed")
    assert found["operations"] > 100 and found["trials"] > 2


@pytest.mark.slow
@pytest.mark.parametrize("of", [(), ("resumed",)], ids=["begun", "resumed"])
@pytest.mark.parametrize("kind", ["SIGKILL", "ENOSPC", "EIO"])
def test_a_run_whose_any_operation_fails_goes_on_exactly(preloaded, tmp_path, kind, of):
    found = preloaded("run_loop.py", tmp_path, kind, 7, *of)
    assert found["trials"] > 30


@pytest.mark.long
def test_a_file_system_that_lacks_something_serves_or_is_refused_before_the_first_step(
    preloaded, tmp_path
):
    """What is a nicety is not missed; what is needed is named in one line, and nothing is left
    behind or damaged.
    """
    found = preloaded("lacks_loop.py", tmp_path, source="lacks.c")
    needed = {
        "replacing EPERM": "replace a file by renaming another (Operation not permitted)",
        "replacing EEXIST": "replace a file by renaming another (File exists)",
        "fsync ENOSYS": "put a file on disk with fsync (Function not implemented)",
        "mmap ENODEV": "map a file into memory (No such device)",
    }
    for lacking, tried in found.items():
        for act, way_out in (
            ("begun", "give an output_dir on another one"),
            ("resumed", "copy the run to another one"),
        ):
            code, said = tried[act]
            if lacking not in needed:
                assert code == 0 and said.count("\n") <= 1, (lacking, act, said)
                continue
            assert code == 2, (lacking, act, said)
            assert f"this file system cannot {needed[lacking]}; {way_out}\n" in said, (
                lacking,
                act,
                said,
            )
            assert said.count("\n") == 1
        assert tried["left"] == [] and tried["resumed elsewhere"] == 0, (lacking, tried)
        assert tried["generated"][0] == (2 if lacking == "mmap ENODEV" else 0), (lacking, tried)
    assert "cannot lock files" in found["flock ENOLCK"]["begun"][1]
    assert "cannot map it into memory; copy it" in found["mmap ENODEV"]["generated"][1]
