"""`python -m tvm_iovt.boards`: what `tvm-iovt board` does, without click and rich.

Needs Python, NumPy and TVM's runtime only, so that `pip install --no-deps tvm-iovt` will do.
"""

from __future__ import annotations

import argparse
import signal
import sys
from types import FrameType

from tvm_iovt.boards.address import LOOPBACK, check_port, parse_address
from tvm_iovt.boards.serve import parse_size, serve_board
from tvm_iovt.boards.supervisor import BoardOptions
from tvm_iovt.errors import EXIT_OK, IovtError


class _Stop(KeyboardInterrupt):
    """Ctrl-C or SIGTERM."""


def main(arguments: list[str] | None = None) -> int:
    """Serve a board until a signal; returns the exit code."""
    parser = argparse.ArgumentParser("python -m tvm_iovt.boards", description=serve_board.__doc__)
    parser.description = "Serve this machine as a board, until Ctrl-C or SIGTERM."
    parser.add_argument("--tracker", required=True, metavar="HOST:PORT")
    parser.add_argument("--key", required=True, help="the kind of board, such as rpi4")
    parser.add_argument("--name", default="", help="default: the host name")
    parser.add_argument("--bind", default=LOOPBACK, help="address to listen on")
    parser.add_argument("--port", type=int, default=0, help="of the RPC server; default: any")
    parser.add_argument("--heartbeat-port", type=int, default=0, help="default: the next port")
    parser.add_argument("--memory-limit", metavar="SIZE", help="of a session, such as 800M")
    given = parser.parse_args(arguments)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    try:
        limit = parse_size(given.memory_limit) if given.memory_limit else None
        options = BoardOptions(
            tracker=parse_address(given.tracker, what="tracker"),
            key=given.key,
            name=given.name,
            bind=given.bind,
            port=check_port("board", given.port),
            heartbeat_port=check_port("heartbeat", given.heartbeat_port),
            memory_limit_bytes=limit,
        )
        serve_board(options, _say)
    except _Stop:
        _say("stopped")
    except IovtError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return EXIT_OK


def _say(line: str) -> None:
    print(line, flush=True)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _Stop


if __name__ == "__main__":
    sys.exit(main())
