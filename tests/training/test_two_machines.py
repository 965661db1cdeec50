"""A run on two machines, which are two network namespaces, loses one of them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "two_machines.py"
NAMESPACE = "flAllowed"


def may_make_namespaces() -> bool:
    if shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", NAMESPACE], check=False, capture_output=True)
    subprocess.run(["ip", "netns", "del", NAMESPACE], check=False, capture_output=True)
    return made.returncode == 0


@pytest.mark.slow
@pytest.mark.cpu
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_a_machine_that_is_lost_ends_the_run_and_the_resumed_run_is_the_same():
    if not may_make_namespaces():
        pytest.skip("this user may not make network namespaces")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], timeout=1800, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
