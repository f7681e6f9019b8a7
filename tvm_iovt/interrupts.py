"""Ctrl-C and SIGTERM, and how to tell them from other exceptions."""

from __future__ import annotations


class InterruptedByUser(KeyboardInterrupt):
    """Ctrl-C or SIGTERM, unwinding so that half-written files are removed.

    A class of its own: Python ends a process by SIGINT, whatever its exit code, once a plain
    KeyboardInterrupt has crossed code that came from `exec`, even if it was caught further up.
    Its text is its name: TVM's C++ frames make a RuntimeError of it, and keep the text alone.
    """

    def __init__(self) -> None:
        super().__init__(type(self).__name__)


def interrupt_inside(error: BaseException) -> bool:
    """Whether a Ctrl-C became another exception on its way through TVM's C++ frames."""
    chain: BaseException | None = error
    while chain is not None:
        names = (KeyboardInterrupt.__name__, InterruptedByUser.__name__)
        if isinstance(chain, KeyboardInterrupt) or any(name in str(chain) for name in names):
            return True
        chain = chain.__cause__ or chain.__context__
    return False
