"""The processes of a run: how they meet, agree on its folder, and learn that one of them is lost.

They meet in a store of torch's: torchrun's own, or one that the first process serves. The first
process makes the run folder and tells the others, which until then have made nothing.
"""

import hashlib
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from types import TracebackType
from typing import Self

import torch
from torch import distributed
from torch.distributed import (
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage] (documented, if in no __all__)
)

from firstlight import processes
from firstlight.errors import ConfigError, Error, RunError, message_lines, one_line
from firstlight.lock import identity, is_held_by
from firstlight.output import tell
from firstlight.process_group import started
from firstlight.processes import Place
from firstlight.runs.writer import LOCK
from firstlight.training.further import launch
from firstlight.training.heartbeat import (
    FAILED,
    LEFT,
    SUSPICIOUS,
    VERDICT,
    Heartbeat,
    Peer,
    Verdict,
    beat_of,
    written,
)
from firstlight.training.store import MeetingPoint

SIGHT, WORD, GO, TELLER = "sight", "word", "go", "teller"
"""Keys of the store: a folder that all must see; what the first process tells the others; that all
are ready; how many have taken it upon them to tell the user."""
LATE = 10.0
"""Seconds in which all must see a file of the first process: a network's file system is late."""
POLL = 0.05
"""Seconds between two looks into the store."""
COLLECTIVE = ("gloo", "nccl", "processgroup", "connection", "timed out", "broken pipe", "socket")
"""Words in torch's errors of a collective, which have no class of their own."""


class Peers:
    """All processes of the run of this one, which has `place` among them.

    `words` are the command, which must be the same for all.

    Raises:
        RunError: the first process cannot be reached.
    """

    def __init__(self, place: Place, *, timeout: float, words: Sequence[str]) -> None:
        self.place, self.timeout = place, timeout
        self.is_first = place.rank == 0
        self.words = hashlib.sha256("\0".join(words).encode()).hexdigest()
        self.children: dict[int, Popen[bytes]] = {}
        """The processes that this one has launched, by rank."""
        self.last_words: Callable[[], str] = str
        """What is told after the reason for which the run has ended."""

    def __enter__(self) -> Self:
        self.meeting_point = MeetingPoint(self.place, timeout=self.timeout)
        self.store = self.meeting_point.client(self.timeout)
        self.heartbeat = Heartbeat(
            self.meeting_point.client,
            rank=self.place.rank,
            timeout=self.timeout,
            children=self.children,
            force=self._force,
        )
        self.store.set(beat_of(self.place.rank), "0 0")
        self.store.set(f"here/{self.place.rank}", json.dumps([identity(), self.words]))
        if not self.is_first:
            self._gather("here", [0], "not come", limit=self.timeout)
            self._watch([0])
        self.heartbeat.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        has_failed = not isinstance(error, SystemExit | None)
        with suppress(RuntimeError):  # the store may be gone
            if self.is_first and error is not None and has_failed:
                # The user is told by this process; the others end with it.
                told = Verdict(one_line(error), 0, isinstance(error, ConfigError))
                self.store.set(VERDICT, written(told))
            if not has_failed:
                self.store.set(beat_of(self.place.rank), LEFT)
        # Its store is needed until all have read this, or have left.
        deadline = time.monotonic() + SUSPICIOUS
        while self.is_first and self.heartbeat.peers and time.monotonic() < deadline:
            time.sleep(POLL)
        self.heartbeat.stop()
        for child in self.children.values():
            with suppress(TimeoutExpired):
                child.wait(0 if has_failed else SUSPICIOUS)
            child.kill()

    # Meeting

    def meet(self) -> None:
        """Wait for the processes that a launcher has started, or for the word of the first one.

        Afterwards a process that is not the first belongs to the run folder (`processes.follow`).

        Raises:
            ConfigError: one was started with another command, or sees another file system.
            RunError: one has not come in time, or is lost.
            SystemExit: the first process has ended, and says why.
        """
        if not self.is_first:
            place = json.loads(self._wait(SIGHT))
            self._check_sight(Path(place["folder"]), place["holder"])
            self.store.set(f"seen/{self.place.rank}", "")
            word = json.loads(self._wait(WORD))
            processes.remember_found(Path(word["found"]) if word["found"] else None)
            processes.follow(Path(word["folder"]))
            return
        launched = self._launched()
        self._gather("here", launched, "not come", limit=self.timeout)
        self._watch(launched)
        for rank in launched:
            if json.loads(self.store.get(f"here/{rank}"))[1] != self.words:
                raise ConfigError(f"rank {rank} was started with another command than rank 0")

    def agree_on(self, folder: Path) -> None:
        """Let all see `folder`, of which this process holds the lock, before it is made a run's.

        Raises:
            ConfigError: a machine does not see it.
        """
        place = {"folder": str(folder.absolute()), "holder": identity()}
        self.store.set(SIGHT, json.dumps(place))
        self._gather("seen", self._launched(), "not answered", limit=self.timeout + LATE)

    def tell(self, folder: Path) -> None:
        """Tell the others that the run in `folder` begins, and launch those of this machine."""
        if self.is_first:
            word = {"folder": str(folder.absolute()), "found": str(processes.found_run() or "")}
            self.store.set(WORD, json.dumps(word))
        if not self.place.one_per_device:
            self.children |= launch(self.place, self.meeting_point.port)

    def _launched(self) -> list[int]:
        """The ranks that were started by a launcher, but for the first."""
        every = 1 if self.place.one_per_device else self.place.devices
        return list(range(every, self.place.world_size, every))

    def _check_sight(self, folder: Path, holder: dict[str, object]) -> None:
        deadline = time.monotonic() + LATE
        while not is_held_by(folder / LOCK, holder):
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"output_dir: this machine does not see the run folder that rank 0 has made"
                    f" ({folder}); give an output_dir on a file system that all machines share"
                )
            time.sleep(POLL)

    @contextmanager
    def group(self, device: torch.device) -> Iterator[None]:
        """torch's process group, in which the processes train within the block.

        Raises:
            RunError: a process is lost before it is ready.
        """
        self.store.set(f"ready/{self.place.rank}", "")
        others = list(range(1, self.place.world_size))
        if self.is_first:
            # Not in a certain time: reading a text may take longer in some than in others.
            self._gather("ready", others, "", limit=None)
            self._watch(others)
            self.store.set(GO, "")
        self._wait(GO)
        is_cpu = device.type == "cpu"
        distributed.init_process_group(
            distributed.get_default_backend_for_device(device),
            store=PrefixStore("group", self.meeting_point.client(self.timeout)),
            rank=self.place.rank,
            world_size=self.place.world_size,
            # NCCL would abort the process, without a word, before the heartbeat has told why.
            timeout=timedelta(seconds=self.timeout + (0 if is_cpu else 2 * LATE)),
            device_id=None if is_cpu else device,
        )
        try:
            yield
        except Exception:
            # torchrun sends it as soon as one process has ended. The others end by themselves, and
            # say why first.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            raise
        # Not after an error: it would wait for a process that is lost.
        distributed.destroy_process_group()

    # Losing one

    def advance(self) -> None:
        """Say that the training of this process has come further."""
        self.heartbeat.progress += 1

    def why_lost(self, error: Exception) -> Verdict | None:
        """Which process is lost, if `error` is that of a collective; None if it is another."""
        text = str(error).lower()
        is_of_collective = isinstance(error, distributed.DistError) or (
            isinstance(error, RuntimeError) and any(word in text for word in COLLECTIVE)
        )
        if not is_of_collective and self.heartbeat.verdict is None:
            return None
        self.heartbeat.is_suspicious = True
        return self.verdict() or Verdict(
            f"the connection between the processes has failed ({one_line(error)})"
        )

    def verdict(self) -> Verdict | None:
        """Which process is lost, or has failed; None if that is not known within some seconds."""
        deadline = time.monotonic() + 3 * SUSPICIOUS
        while self.heartbeat.verdict is None and time.monotonic() < deadline:
            time.sleep(POLL)
        return self.heartbeat.verdict

    def end_with(self, verdict: Verdict) -> BaseException:
        """The exception with which this process ends: silently where another one tells why."""
        if not self._tells(verdict):
            return SystemExit(_code_of(verdict))
        kind = ConfigError if verdict.is_mistake else RunError
        return kind(verdict.text)

    def fail(self, error: Exception) -> BaseException:
        """Let the first process tell the user of `error`; return what to raise here."""
        if self.is_first or self.heartbeat.verdict is not None:
            return error
        text = f"rank {self.place.rank} ({socket.gethostname()}): {message_lines(error)[0]}"
        verdict = Verdict(text, self.place.rank, isinstance(error, ConfigError))
        try:
            self.store.compare_set(FAILED, "", written(verdict))
        except RuntimeError:
            return error
        return SystemExit(_code_of(verdict))

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Within the block, the first process tells the user of the errors of this one, too."""
        try:
            yield
        except Error as error:
            raise self.fail(error) from error
        except Exception as error:  # a defect: its traceback is shown here
            self.fail(error)
            raise

    def _tells(self, verdict: Verdict) -> bool:
        if self.is_first:
            return True
        if verdict.is_told:
            return False
        try:  # the first process is lost: one of the others tells
            return self.meeting_point.client().add(TELLER, 1) == 1
        except RuntimeError:
            return True

    def _force(self, verdict: Verdict) -> None:
        error = self.end_with(verdict)
        if not isinstance(error, SystemExit):
            for line in [*message_lines(error), *self.last_words().splitlines()]:
                tell(f"firstlight: {line}", stderr=True)
        for child in self.children.values():
            child.kill()
        # Nothing else ends a thread that waits in a collective.
        os._exit(_code_of(verdict))

    # Waiting

    def _watch(self, ranks: Iterable[int]) -> None:
        """Notice from now on if one of `ranks`, which are here, is lost."""
        peers = dict(self.heartbeat.peers)
        for rank in ranks:
            who, _ = json.loads(self.store.get(f"here/{rank}"))
            is_here = who["host"] == socket.gethostname() and started(who["pid"]) == who["started"]
            peers.setdefault(rank, Peer(rank, who["host"], who["pid"], who["started"], is_here))
        self.heartbeat.peers = peers

    def _gather(self, key: str, ranks: list[int], what: str, *, limit: float | None) -> None:
        """Wait until all of `ranks` have set `key`, at most `limit` seconds."""
        began = time.monotonic()
        for rank in ranks:
            while not self._is_there(f"{key}/{rank}"):
                if limit is not None and time.monotonic() - began > limit:
                    raise RunError(
                        f"rank {rank} of {self.place.world_size} has {what} in {limit:g} s"
                        " (trainer.timeout); every process must be started with this command"
                    )
                time.sleep(POLL)

    def _wait(self, key: str) -> bytes:
        """What another process sets `key` to, when it has done so."""
        while not self._is_there(key):
            time.sleep(POLL)
        return self.store.get(key)

    def _is_there(self, key: str) -> bool:
        """Whether a process has set `key`.

        Raises:
            BaseException: what ends this process, as another is lost, or has failed.
        """
        try:
            is_set = self.store.check([key])
        except distributed.DistError as error:
            raise self.end_with(self.why_lost(error) or Verdict(one_line(error))) from error
        if not is_set and self.heartbeat.verdict is not None:
            raise self.end_with(self.heartbeat.verdict)
        return is_set


def _code_of(verdict: Verdict) -> int:
    return 2 if verdict.is_mistake else 1
