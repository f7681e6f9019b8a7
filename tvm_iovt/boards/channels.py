"""Further connections to a session on a board, so that one frame travels while another is computed.

TVM's server serves one connection at a time, and a connection answers one call after the other: an
upload would wait for the kernels of the frame before it. A process of a session therefore serves
more connections when its client asks for them, each in a thread. They come to the port of the
server, which does not listen there while a session lasts, so that a tunnel or a firewall needs no
other one.

The connections of a session share libraries that they ask for by the same name, so that a stage's
weights are uploaded once and are once in the board's memory, however many frames it carries. They
stay there until the session ends: TVM's server gives no library back.
"""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from typing import Any

OPEN_CHANNEL = "tvm_iovt.rpc.open_channel"
"""Global function of a board: takes the word that the client will say, and whether it can come."""

IS_LOADED = "tvm_iovt.rpc.is_loaded"
"""Global function of a board: whether a connection has loaded the shared library of that name."""

SHARED = "shared-"
"""Begin of the names of libraries that the connections of a session share."""

ACCEPT_S = 10.0
"""Longest time for the client to come after it was told that it can."""

_MAX_WORD_BYTES = 4096
_LOAD = "tvm.rpc.server.load_module"  # what TVM's clients call (tvm/rpc/server.py)


def register(listener: Callable[[], socket.socket | None]) -> None:
    """Offer channels to the sessions that this process will fork.

    Args:
        listener: The socket of the server, None while there is none.
    """
    import tvm_ffi

    libraries = _SharedLibraries()

    def open_channel(word: str) -> int:
        found = listener()
        if found is None:
            return 0
        libraries.install()
        threading.Thread(target=_serve, args=(found, str(word)), daemon=True).start()
        return 1

    tvm_ffi.register_global_func(OPEN_CHANNEL, open_channel, override=True)
    tvm_ffi.register_global_func(IS_LOADED, libraries.has, override=True)


class _SharedLibraries:
    """Those of one session, whose process has them to itself."""

    def __init__(self) -> None:
        self._modules: dict[str, Any] = {}
        self._load: Any = None

    def install(self) -> None:
        """Have the session load a library with a shared name only once."""
        import tvm_ffi

        if self._load is None:
            self._load = tvm_ffi.get_global_func(_LOAD)
            tvm_ffi.register_global_func(_LOAD, self._loaded, override=True)

    def has(self, name: str) -> int:
        return int(str(name) in self._modules)

    def _loaded(self, name: str) -> Any:
        name = str(name)
        if not name.startswith(SHARED):
            return self._load(name)
        if name not in self._modules:
            self._modules[name] = self._load(name)
        return self._modules[name]


def _serve(listener: socket.socket, word: str) -> None:
    from tvm.rpc import _ffi_api

    connection = _accepted(listener, word)
    if connection is None:
        return
    with contextlib.suppress(Exception):
        _ffi_api.ServerLoop(connection.detach())  # which closes it


def _accepted(listener: socket.socket, word: str) -> socket.socket | None:
    """The connection of the client that says the word; None if it does not come."""
    from tvm.rpc import base

    deadline_s = time.monotonic() + ACCEPT_S
    while (left_s := deadline_s - time.monotonic()) > 0:
        readable, _, _ = select.select([listener], [], [], left_s)
        if not readable:
            break
        connection, _ = listener.accept()
        try:
            if _is_welcome(connection, word, base):
                return connection
        except (OSError, UnicodeDecodeError, struct.error):
            pass
        connection.close()
    return None


def _is_welcome(connection: socket.socket, word: str, base: Any) -> bool:
    """The part of a server in TVM's handshake (tvm/rpc/server.py)."""
    connection.settimeout(ACCEPT_S)
    (magic,) = struct.unpack("<i", base.recvall(connection, 4))
    if magic != base.RPC_MAGIC:
        return False
    (length,) = struct.unpack("<i", base.recvall(connection, 4))
    if not 0 < length <= _MAX_WORD_BYTES:
        return False
    said = base.recvall(connection, length).decode("utf-8").split()
    if not said or said[0] != f"client:{word}":
        connection.sendall(struct.pack("<i", base.RPC_CODE_MISMATCH))
        return False
    name = b"server:channel"
    code = struct.pack("<i", base.RPC_CODE_SUCCESS)
    connection.sendall(code + struct.pack("<i", len(name)) + name)
    connection.settimeout(None)
    return True
