"""How a model is served: address, token, queue, and how much one request may ask for."""

from __future__ import annotations

import ipaddress
import string
from dataclasses import dataclass, field

from florence_edge.errors import InputError, listing
from florence_edge.images import Limits

SHORTEST_TOKEN = 16
_TOKEN_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-._~+/=")
"""What a bearer token may consist of (RFC 6750, section 2.1)."""

MAKE_TOKEN = 'python -c "import secrets; print(secrets.token_urlsafe())"'


@dataclass(frozen=True)
class ServeOptions:
    """What a server may be asked, and by whom.

    `host` and `port` are where it listens (port 0: any free one). Anything but a loopback address needs a `token`,
    which every request must then carry. `allowed_hosts` are further names that a `Host` header may hold, as a reverse
    proxy passes them on; without a token only those and the loopback names are answered.

    `places` requests may wait or run at a time, the next one is refused. A request holds at most `max_bytes` (upload),
    `max_pixels` (picture) and `max_tasks`; its upload may take `upload_s` seconds, and so may any stretch in
    which a reader takes nothing of its answer. Accepted requests have `grace_s` seconds to end when the server stops. A
    model that is busy with one encoding, answer or streamed token for more than `hang_s` seconds counts as hung: new
    requests are refused and /healthz says so, for whoever restarts servers.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token: str | None = field(default=None, repr=False)
    allowed_hosts: tuple[str, ...] = ()
    places: int = 8
    max_bytes: int = 16 * 2**20
    max_pixels: int = 40_000_000
    max_tasks: int = 16
    upload_s: float = 30.0
    grace_s: float = 30.0
    hang_s: float = 600.0

    def __post_init__(self) -> None:
        faults = [
            f"{name} is {getattr(self, name)}; it must be {least} or more"
            for name, least in (("places", 1), ("max_bytes", 1), ("max_pixels", 1), ("max_tasks", 1))
            if getattr(self, name) < least
        ]
        faults += [
            f"{name} is {getattr(self, name)}; it must be a number of seconds above 0"
            for name in ("upload_s", "grace_s", "hang_s")
            if not 0 < getattr(self, name) < float("inf")
        ]
        if not 0 <= self.port <= 65535:
            faults.append(f"port is {self.port}; it must lie in 0..65535, 0 for any free one")
        if self.token is None and not self.loopback:
            faults.append(
                f"host is {self.host!r}, which others can reach, but there is no token; make one with {MAKE_TOKEN} and "
                "set FLORENCE_EDGE_TOKEN or --token-file, or listen on 127.0.0.1"
            )
        if self.token is not None and (
            len(self.token) < SHORTEST_TOKEN or not _TOKEN_CHARACTERS.issuperset(self.token)
        ):
            faults.append(
                f"the token has {len(self.token)} characters; it must have {SHORTEST_TOKEN} or more, all of them "
                f"letters, digits or -._~+/=; make one with {MAKE_TOKEN}"
            )
        if faults:
            raise InputError(listing("the server cannot be started like this:", faults))

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def limits(self) -> Limits:
        """How much a picture may hold."""
        return Limits(max_pixels=self.max_pixels)
