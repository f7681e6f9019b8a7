"""Where trackers and boards listen: `host:port`, read once and with the same errors everywhere."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from tvm_iovt.errors import UsageError

TRACKER_PORT = 9190
"""Port of a tracker when none is given; TVM's own default."""

LOOPBACK = "127.0.0.1"

_MAX_PORT = 65535
_BRACKETED = re.compile(r"\[(?P<host>[^\]]+)\](:(?P<port>.*))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """A host name or address, and a TCP port."""

    host: str
    port: int

    @property
    def pair(self) -> tuple[str, int]:
        """As `socket` takes it."""
        return self.host, self.port

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse_address(text: str, *, what: str, default_port: int = TRACKER_PORT) -> Address:
    """Read `host`, `host:port`, `[ipv6]` or `[ipv6]:port`.

    Args:
        text: What the user wrote.
        what: Whose address it is, for messages: `tracker`.
        default_port: Port if the text names none.

    Raises:
        UsageError: It is something else.
    """
    text = text.strip()
    bracketed = _BRACKETED.fullmatch(text)
    if bracketed:
        host, port = bracketed["host"], bracketed["port"]
    elif text.count(":") > 1:
        raise _wrong(what, text, "write an IPv6 address in brackets: [::1]:9190")
    else:
        host, colon, rest = text.partition(":")
        port = rest if colon else None
    if not _is_host(host):
        raise _wrong(what, text, f"write it as host:port, for example {LOOPBACK}:{default_port}")
    return Address(host=host, port=default_port if port is None else _port(what, text, port))


def check_port(what: str, port: int) -> int:
    """The port, if it is one; 0 stands for any that is free.

    Raises:
        UsageError: It is not.
    """
    if not 0 <= port <= _MAX_PORT:
        raise UsageError(f"The port of the {what} is out of range", seen=str(port), do="0 .. 65535")
    return port


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that host name or address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_host(text: str) -> bool:
    """Whether `socket` takes it as a name of a host, or says in an OSError why not."""
    try:
        text.encode("idna")
    except UnicodeError:  # an empty part, or one that is too long
        return False
    return bool(text) and not any(character in text for character in " /@\0")


def _port(what: str, text: str, port: str) -> int:
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) <= _MAX_PORT:
        raise _wrong(what, text, "the port is a number from 1 to 65535")
    return int(port)


def _wrong(what: str, text: str, do: str) -> UsageError:
    return UsageError(f"The address of the {what} cannot be read", seen=repr(text), do=do)
