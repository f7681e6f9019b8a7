"""The exceptions of tvm-iovt and the process exit codes they stand for.

Every message says what failed, what was seen, and what to do next. The command line prints the
message and exits with the class's `exit_code`; a traceback is only ever shown for a bug of ours
(exit code 1).
"""

from __future__ import annotations

EXIT_OK = 0
EXIT_BUG = 1
EXIT_INTERRUPTED = 130


class IovtError(Exception):
    """Base class of every error that a user can cause or cure.

    Args:
        what: What failed, as one sentence without a full stop.
        seen: What was found instead (a value, a tool's output).
        do: What the user can do next: a command, a flag, a package to install.
    """

    exit_code: int = EXIT_BUG

    def __init__(self, what: str, *, seen: str = "", do: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.seen = seen
        self.do = do

    def __str__(self) -> str:
        lines = [self.what]
        if self.seen:
            lines.append(f"  seen: {self.seen}")
        if self.do:
            lines.append(f"  do:   {self.do}")
        return "\n".join(lines)


class UsageError(IovtError):
    """The command line or an argument is wrong."""

    exit_code = 2


class ModelError(IovtError):
    """The model cannot be read, or uses something that cannot be compiled."""

    exit_code = 3


class TargetError(IovtError):
    """The target is unknown, or cannot be built for on this machine."""

    exit_code = 4


class ToolchainError(TargetError):
    """A compiler, linker or library that the build needs is missing, broken or too old."""


class DeviceError(IovtError):
    """A device or board is unreachable, or failed while running."""

    exit_code = 5


class NumericsError(IovtError):
    """The compiled network does not compute what the reference computes."""

    exit_code = 6


class TuningError(IovtError):
    """Tuning ended without a usable result."""

    exit_code = 7


class BundleError(IovtError):
    """A bundle cannot be written, read, or run on this machine."""

    exit_code = 8
