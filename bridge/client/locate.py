"""Locators of servers: by their address, or among the running ones by model and what computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bridge import __version__
from bridge.client.address import ServerAddress
from bridge.protocol.messages import PROTOCOL
from bridge.transport.discovery import ServerRecord, running_servers
from herohe_model.model.compute import AUTO, Compute, engine_name


@dataclass(frozen=True)
class ServerRequirements:
    """Requirements of a server that is used without asking.

    Attributes
    ----------
    compute
        Where that is ``auto``, the server must have chosen for itself, too.
    """

    model_sha256: str
    compute: Compute = AUTO

    def fits(self, record: ServerRecord) -> bool:
        """Whether a server is one of those; one that belongs to another process never is."""
        compute = self.compute
        return (
            not record.owned
            and record.protocol == PROTOCOL
            and record.version == __version__
            and record.model_sha256 == self.model_sha256
            and self._fits_device(record)
            and compute.precision in (record.precision_asked, record.precision)
            and compute.engine in (record.engine_asked, engine_name(record.engine))
        )

    def _fits_device(self, record: ServerRecord) -> bool:
        names = {label.split()[0] for label in record.device.split(", ")}
        device = "cuda:0" if self.compute.device == "cuda" else self.compute.device
        return record.devices_asked == (self.compute.device,) or names == {device}


def find_server(wanted: ServerRequirements) -> ServerRecord | None:
    """Return the running server that fits and was started last, or None."""
    fitting = [record for record in running_servers() if wanted.fits(record)]
    return fitting[-1] if fitting else None


@dataclass(frozen=True)
class DiscoveredServer:
    """A server that was found, and will be found again when it was restarted.

    Implements :class:`bridge.client.locate.ServerLocator`.
    """

    wanted: ServerRequirements

    def find(self) -> ServerAddress | None:
        """Return the address of a server that fits, now."""
        record = find_server(self.wanted)
        return ServerAddress.of(record) if record is not None else None

    def is_gone(self) -> bool:
        """Return False: somebody may start it again."""
        return False


class ServerLocator(Protocol):
    """Where a server is to be found, now and after it was restarted."""

    def find(self) -> ServerAddress | None:
        """Return its address at present, None while it is nowhere."""
        ...

    def is_gone(self) -> bool:
        """Whether it certainly will not come back."""
        ...


@dataclass(frozen=True)
class FixedServer:
    """A server that has one address, and comes back there if it comes back."""

    address: ServerAddress

    def find(self) -> ServerAddress | None:
        """Return the address."""
        return self.address

    def is_gone(self) -> bool:
        """Return False: nobody can know."""
        return False
