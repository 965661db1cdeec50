"""torch's store in which the processes of a run meet: torchrun's, or that of the first process."""

import socket
from datetime import timedelta

from torch import distributed
from torch.distributed import (  # documented; torch lists them in no __all__
    PrefixStore,  # pyright: ignore[reportPrivateImportUsage]
    Store,  # pyright: ignore[reportPrivateImportUsage]
    TCPStore,  # pyright: ignore[reportPrivateImportUsage]
)

from firstlight.errors import RunError, one_line
from firstlight.processes import Place

SOCKET_TIMEOUT = 3.0
"""Seconds until an operation of the heartbeat fails: so a connection is known to be cut off."""


class MeetingPoint:
    """The store of the run in which this process has `place`.

    Raises:
        RunError: it is to be served here, and its port is not free.
    """

    def __init__(self, place: Place, *, timeout: float) -> None:
        self.place, self.port = place, place.port
        self.server: TCPStore | None = None
        if place.rank > 0 or place.store_is_there:
            return
        try:
            self.server = TCPStore(
                place.address,
                place.port,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout),
            )
        except RuntimeError as error:
            raise RunError(
                f"MASTER_PORT ({place.port}): the processes cannot meet there, at"
                f" {place.address} ({one_line(error)})"
            ) from error
        self.port = self.server.port

    def client(self, timeout: float = SOCKET_TIMEOUT) -> Store:
        """A connection of its own to the store: an operation that waits blocks all others.

        Raises:
            RunError: it is not reached in `timeout` seconds.
        """
        place = self.place
        try:
            client = TCPStore(
                place.address,
                self.port,
                is_master=False,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout),
            )
        except distributed.DistError as error:
            raise RunError(
                f"rank {place.rank} ({socket.gethostname()}) has not reached the first process at"
                f" {place.address}, port {self.port}, in {timeout:g} s ({one_line(error)})"
            ) from error
        return PrefixStore(f"firstlight/{place.attempt}", client)
