"""Whether a board works at all, before a network is sent to it: bytes, then a tiny kernel."""

from __future__ import annotations

import importlib.resources
import importlib.util
import tempfile
from pathlib import Path

from tvm_iovt.boards.session import BoardSession, Progress
from tvm_iovt.build.link import find_linker
from tvm_iovt.errors import ToolchainError
from tvm_iovt.types import CpuSpec

_PROBE_BYTES = 1 << 20


def check_board(
    session: BoardSession, cpu: CpuSpec, progress: Progress = lambda message: None
) -> tuple[int, int, int] | None:
    """Send bytes to a board and back, and run a tiny kernel there.

    Args:
        session: With the board.
        cpu: What to build the kernel for; a linker for it also compiles it.
        progress: Is told each step.

    Returns:
        The version that the board's tvm_ffi gives itself; None without a linker for such CPUs.

    Raises:
        DeviceError: What came back was wrong, or nothing came; names the step.
    """
    progress("sending bytes there and back")
    session.call("sending bytes there and back", "echo", _PROBE_BYTES)
    try:
        linker = find_linker(cpu)
        progress("running a tiny kernel")
        with tempfile.TemporaryDirectory(prefix="tvm-iovt-") as folder:
            library = Path(folder) / f"probe.{cpu.arch}.so"
            source = importlib.resources.files("tvm_iovt.boards") / "probe_kernel.cc"
            with importlib.resources.as_file(source) as file:
                linker.link([file], library, ["-I", _ffi_headers()])
            version: tuple[int, int, int] = session.call("running a tiny kernel", "probe", library)
            return version
    except ToolchainError as error:
        progress(f"no tiny kernel was run: {error.what}: {error.seen}")
        return None


def _ffi_headers() -> str:
    spec = importlib.util.find_spec("tvm_ffi")
    if spec is None or spec.origin is None:
        raise ToolchainError("The headers of tvm_ffi are missing", do="pip install apache-tvm-ffi")
    return str(Path(spec.origin).parent / "include")
