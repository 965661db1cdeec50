"""Several processes train from tokens that one of them has made and kept."""

import sys
from pathlib import Path

import pytest
from test_devices import TORCHRUN, assert_same_curve, run
from tiny_run import TINY

pytestmark = [
    pytest.mark.cpu,
    pytest.mark.long,
    pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc"),
]

SCRIPT = str(Path(__file__).parent / "with_large_texts.py")
WORDS = (*TINY, "model.drop_rate=0", "trainer.strategy=ddp", "output_dir=run")


def noted(what):
    """Which ranks have noted `what`, each with what comes after it."""
    found = [line.split() for line in Path("noted").read_text().splitlines()]
    return sorted((rank, *rest) for rank, word, *rest in found if word == what)


def tokens_of(cache):
    return sorted(Path(cache).rglob("*.bin"))


@pytest.fixture(autouse=True)
def cache(tmp_path):
    return {"FIRSTLIGHT_CACHE_DIR": str(tmp_path / "cache")}


def test_the_first_process_makes_the_tokens_and_all_map_the_same_files(train, cache):
    done = run(*WORDS, "trainer.devices=2", begin=[sys.executable, SCRIPT], **cache)
    assert done.returncode == 0, done.stderr
    assert noted("encodes") == [("0",)] and done.stderr.count("encoding") == 1
    files = sorted(str(file.stat().st_ino) for file in tokens_of("cache"))
    assert len(files) == 2  # training and validation
    assert noted("maps") == [("0", *files), ("1", *files)]
    assert train("one", "model.drop_rate=0") == 0  # from memory
    assert_same_curve("run", "one")


def test_each_machine_makes_its_tokens_once_also_after_the_first_process_was_killed(train, cache):
    words = [*WORDS, "trainer.devices=3", "trainer.max_steps=8"]
    begin = [*TORCHRUN[:-1], "--nproc-per-node=3", SCRIPT]
    killed = run(*words, begin=begin, KILLED_RANK="0", SECOND_MACHINE="1 2", **cache)
    assert killed.returncode == 1 and noted("encodes") == [("0",)]
    assert "Signal 9 (SIGKILL) received" in killed.stderr  # torchrun ends the others, and says why
    assert not Path("run").exists() and tokens_of("cache") == []
    Path("noted").unlink()
    done = run(*words, begin=begin, SECOND_MACHINE="1 2", **cache)
    assert done.returncode == 0, done.stderr
    first, second = noted("encodes")
    assert first == ("0",) and second in [("1",), ("2",)]
    assert done.stderr.count("another process is encoding this text: waiting for it") == 1
    [own, one, other] = [rest for _, *rest in noted("maps")]
    assert one == other and not set(own) & set(one)
    assert train("one", "model.drop_rate=0", "trainer.max_steps=8") == 0
    assert_same_curve("run", "one")
