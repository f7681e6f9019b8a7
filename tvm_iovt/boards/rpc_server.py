"""The process that serves TVM's RPC on a board; its supervisor forks it.

TVM's runtime alone is used. The server is started inside of this process, as TVM's own program
would execute Python anew, which emulators without kernel support cannot do.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import socket
import sys
import threading
from pathlib import Path
from typing import Any

from tvm_iovt.boards import channels
from tvm_iovt.boards.address import Address
from tvm_iovt.boards.confinement import (
    SESSION_FAILED,
    SESSION_SIGNALLED,
    die_with_parent,
    limit_memory,
)

RUNTIME_ONLY = "TVM_USE_RUNTIME_LIB"
"""TVM's variable that keeps its compiler (240 MB) out of the process."""

EXTRA = "libtvm_runtime_extra.so"
"""Operators that networks look up when they run; not loaded by TVM in this mode."""

_DEVICES = ("cuda", "vulkan", "opencl", "metal", "rocm", "hexagon")


def serve(
    bind: Address, tracker: Address, key: str, memory_limit_bytes: int | None, ready: int
) -> int:
    """Serve until the server ends, which it does when a client's process dies.

    Args:
        bind: Where to listen.
        tracker: Where to register.
        key: The kind of board.
        memory_limit_bytes: For each session; None is most of what is available then.
        ready: File descriptor that gets a line of JSON when it serves, or says why it cannot.

    Returns:
        Exit code of the process.
    """
    import multiprocessing

    # What Python 3.14 would do instead needs to execute Python anew.
    multiprocessing.set_start_method("fork", force=True)
    ending = _Ending()
    threading.excepthook = ending.note
    server_pid = os.getpid()

    def in_session() -> None:
        die_with_parent(server_pid)
        limit_memory(memory_limit_bytes)

    try:
        _import_tvm()
        from tvm.rpc.server import PopenRPCServerState

        family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as test:
            # TVM says "cannot bind to any port", and not why.
            test.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            test.bind(bind.pair)
        os.register_at_fork(after_in_child=in_session)
        states: list[PopenRPCServerState] = []
        channels.register(lambda: states[0].sock if states else None)
        state = PopenRPCServerState(
            bind.host, bind.port, bind.port + 1, tracker_addr=tracker.pair, key=key
        )
        states.append(state)
    except Exception as error:
        os.write(ready, json.dumps({"error": f"{error}"[:500]}).encode() + b"\n")
        return 1
    os.write(ready, json.dumps({"port": state.port}).encode() + b"\n")
    os.close(ready)
    state.thread.join()
    return ending.exit_code


def examine() -> dict[str, Any]:
    """What TVM's runtime finds on this machine; call it in a process of its own.

    GPUs cannot be used in a process whose parent has looked at them.

    Returns:
        `devices`: accelerators by name; `tvm`, `tvm_ffi`: versions.
    """
    tvm = _import_tvm()
    from importlib import metadata

    devices = []
    for kind in _DEVICES:
        if tvm.get_global_func(f"device_api.{kind}", True) is None:
            continue
        device = tvm.runtime.device(kind, 0)
        if device.exist:
            devices.append(f"{kind} ({device.device_name})")
    return {
        "devices": devices,
        "tvm": metadata.version("apache-tvm"),
        "tvm_ffi": metadata.version("apache-tvm-ffi"),
    }


def _import_tvm() -> Any:
    """TVM, runtime only and without torch; its back-ends load themselves (`tvm.backends`)."""
    os.environ[RUNTIME_ONLY] = "1"
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from tvm_iovt.runtime import threads

    threads.set_defaults()  # as the network would run in the product
    import tvm

    extra = Path(tvm.__file__).parent / "lib" / EXTRA
    if extra.is_file():
        ctypes.CDLL(str(extra), ctypes.RTLD_GLOBAL)
    return tvm


class _Ending:
    """Why the server ends, in one line instead of the trace that every killed session would print.

    Attributes:
        exit_code: `confinement.SESSION_SIGNALLED` and the number of the signal that killed a
            session, `SESSION_FAILED` if one ended otherwise; 1 if something else ended the server.
    """

    exit_code = 1

    def note(self, arguments: threading.ExceptHookArgs) -> None:
        """A `threading.excepthook`."""
        text = str(arguments.exc_value)
        print(f"the server ends: {text}", file=sys.stderr, flush=True)
        found = re.search(r"exited unsuccessfully with error code (-?\d+)", text)
        if found:
            code = int(found[1])
            self.exit_code = SESSION_SIGNALLED - code if code < 0 else SESSION_FAILED
