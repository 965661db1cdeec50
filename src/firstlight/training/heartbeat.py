"""A thread by which the processes of a run notice that one of them is lost.

torch tells that a collective has failed, after its time-out, and not because of which process. So
each process writes a count into the store of the run once a second. The first process reads those
of all the others, and they read its.
"""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from subprocess import Popen
from typing import Any

from torch.distributed import Store  # pyright: ignore[reportPrivateImportUsage]

from firstlight.process_group import ended_by, started

SUSPICIOUS = 3.0
"""Seconds without a beat after which a process is lost, once the connection to one has failed."""
GRACE = 5.0
"""Seconds for this process to end by itself, once one is lost."""
LONGEST_ROUND = 10.0
"""Seconds that one round of the thread counts for at most: this process itself may have been
stopped."""
FAILED, VERDICT, SUSPICION = "failed", "verdict", "suspicion"
"""Keys of the store: what has failed in another process than the first; why the run ends; that a
connection has failed."""
LEFT = "left 0"
"""The last beat of a process that has ended well."""


@dataclass
class Peer:
    """Another process of the run, and what has been heard of it."""

    rank: int
    host: str
    pid: int
    started: str
    """When, in the words of `process_group.started`."""
    is_here: bool
    """Whether it runs on this machine, where its end can be seen."""
    beat: str = ""
    progress: int = -1
    silent: float = 0.0
    """Seconds since its last beat."""
    still: float = 0.0
    """Seconds since it last came further in its training."""
    gone: int = 0
    """Rounds in which its process did not exist."""

    @property
    def name(self) -> str:
        """As messages call it."""
        return f"rank {self.rank} (process {self.pid} on {self.host})"

    def hear(self, beat: str, seconds: float) -> None:
        """Take what it has last written: its count, and how far it has come."""
        progress = int(beat.split()[1])
        self.silent = 0.0 if beat != self.beat else self.silent + seconds
        self.still = 0.0 if progress != self.progress else self.still + seconds
        self.beat, self.progress = beat, progress


@dataclass(frozen=True)
class Verdict:
    """Why the run ends, and whether it is a mistake of the user's."""

    text: str
    rank: int = -1
    """Of the process that is lost; -1: none is."""
    is_mistake: bool = False
    is_told: bool = False
    """Whether the first process tells the user."""


def beat_of(rank: int) -> str:
    """The key of the store with the beats of a process."""
    return f"beat/{rank}"


def written(verdict: Verdict) -> str:
    """A verdict as it is stored."""
    kept = asdict(verdict)
    del kept["is_told"]
    return json.dumps(kept)


def _plain(stored: bytes) -> dict[str, Any]:
    return json.loads(stored)


class Heartbeat(threading.Thread):
    """Writes the beats of process `rank`, reads those of `peers`, and decides when one is lost.

    `connect` makes a client of the store. `children` are the processes that this one has launched,
    by rank. `force` ends this process; it is called if it has not ended `GRACE` seconds after the
    verdict, as it may wait for ever in a collective.
    """

    def __init__(
        self,
        connect: Callable[[], Store],
        *,
        rank: int,
        timeout: float,
        children: dict[int, Popen[bytes]],
        force: Callable[[Verdict], None],
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self.connect, self.rank, self.timeout = connect, rank, timeout
        self.children, self.force = children, force
        self.peers: dict[int, Peer] = {}
        self.progress = 0
        """How far the training of this process has come: any number that grows with it."""
        self.verdict: Verdict | None = None
        self.is_suspicious = False
        self.interval = min(1.0, timeout / 10)
        self.stopped = threading.Event()
        self.count = 0
        self.ended = 0
        """Rounds in which a process that this one has launched had ended badly."""
        self.store: Store | None = None

    def stop(self) -> None:
        """End the thread, and wait for it."""
        self.stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(timeout=GRACE)

    def run(self) -> None:
        last, waited = time.monotonic(), 0.0
        while not self.stopped.wait(self.interval):
            now = time.monotonic()
            seconds, last = min(now - last, LONGEST_ROUND), now
            try:
                self._round(seconds)
            except RuntimeError:  # torch's DistError, among them that of a time-out
                self.store = None
                for peer in list(self.peers.values()):
                    peer.silent += seconds
            if self.verdict is None:
                self._judge()
            else:
                waited += seconds
                if waited > GRACE:
                    self.force(self.verdict)
                    return

    def _round(self, seconds: float) -> None:
        """Beat, and read what the others have written."""
        if self.store is None:
            self.store = self.connect()
        store, self.count = self.store, self.count + 1
        store.set(beat_of(self.rank), f"{self.count} {self.progress}")
        peers = list(self.peers.values())
        beats = store.multi_get([beat_of(peer.rank) for peer in peers]) if peers else []
        for peer, beat in zip(peers, beats, strict=True):
            words = beat.decode()
            if words == LEFT:
                self.peers.pop(peer.rank, None)
            else:
                peer.hear(words, seconds)
        if self.rank == 0:
            self.is_suspicious = self.is_suspicious or store.check([SUSPICION])
            if self.verdict is None and store.check([FAILED]):
                self._decide(Verdict(**_plain(store.get(FAILED))))
        elif self.verdict is None and store.check([VERDICT]):
            self.verdict = Verdict(**_plain(store.get(VERDICT)), is_told=True)
        elif self.is_suspicious:
            store.set(SUSPICION, "")

    def _judge(self) -> None:
        for rank, child in list(self.children.items()):
            code = child.poll() or 0
            # By a signal, so it could not say why itself.
            if code < 0:
                text = f"rank {rank} (process {child.pid}) was {ended_by(-code)}"
                self._decide(Verdict(text, rank))
                return
            self.ended += int(code > 0)
            if code > 0 and self.ended > 1:  # before, the process itself may say why
                text = f"rank {rank} (process {child.pid}) has ended with exit code {code}"
                self._decide(Verdict(text, rank))
                return
        for peer in sorted(self.peers.values(), key=lambda peer: -peer.silent):
            if reason := self._reason(peer):
                self._decide(Verdict(f"{peer.name} {reason}", peer.rank))
                return
        behind = min(self.peers.values(), key=lambda peer: peer.progress, default=None)
        is_waited_for = behind is not None and 0 < behind.progress < self.progress
        if behind is not None and is_waited_for and behind.still >= self.timeout:
            text = f"the others have waited for {self.timeout:g} s (trainer.timeout)"
            self._decide(Verdict(f"{behind.name} does not come further: {text}", behind.rank))

    def _reason(self, peer: Peer) -> str | None:
        """Why `peer` is lost; None if it is not."""
        if peer.is_here:
            peer.gone = peer.gone + 1 if started(peer.pid) != peer.started else 0
            if peer.gone > 1:  # in the first of them it may just have left
                return "has ended"
        if peer.silent >= self.timeout:
            return (
                f"has given no sign of life for {self.timeout:g} s (trainer.timeout): it has"
                " stopped, or cannot be reached"
            )
        if self.is_suspicious and peer.silent >= max(SUSPICIOUS, 3 * self.interval):
            return f"is lost: a connection has failed, and it is silent for {peer.silent:.0f} s"
        return None

    def _decide(self, verdict: Verdict) -> None:
        """Keep the verdict, and pass it on as far as possible."""
        is_told = False
        try:
            if self.store is not None and self.rank == 0:
                self.store.set(VERDICT, written(verdict))
            elif self.store is not None and verdict.rank != 0:
                # The first failure is the reason; what fails after it is a consequence.
                self.store.compare_set(FAILED, "", written(verdict))
                is_told = True
        except RuntimeError:
            self.store = None
        self.peers.pop(verdict.rank, None)
        self.verdict = replace(verdict, is_told=is_told)
