"""`tvm-iovt board`."""

from __future__ import annotations

import click

from tvm_iovt.boards.address import LOOPBACK
from tvm_iovt.cli.options import common_options


@click.command("board")
@click.option("--tracker", required=True, metavar="HOST:PORT", help="Where to register.")
@click.option("--key", required=True, help="The kind of board, such as rpi4; not a secret.")
@click.option("--name", default="", help="Name for reports; default: the host name.")
@click.option("--bind", default=LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--port", default=0, help="Port of the RPC server; default: any that is free.")
@click.option("--heartbeat-port", default=0, help="Default: the port after --port, or any.")
@click.option("--memory-limit", metavar="SIZE", help="Of a session, such as 800M; default: most.")
@common_options
def board_command(
    tracker: str,
    key: str,
    name: str,
    bind: str,
    port: int,
    heartbeat_port: int,
    memory_limit: str | None,
    as_json: bool,
    verbosity: int,
) -> None:
    """Serve this machine as a board of a tracker, until Ctrl-C or SIGTERM.

    TVM's RPC server runs under supervision: it is started again when a kernel takes it down, each
    session has a memory limit, and a heartbeat tells clients that the board is alive. It executes
    what it is sent, so that it listens on loopback unless --bind says otherwise; a tunnel is

    \b
    ssh -N -L 9190:127.0.0.1:9190 -R 9091:127.0.0.1:9091 -R 9092:127.0.0.1:9092 TRACKER-HOST
    tvm-iovt board --tracker 127.0.0.1:9190 --key rpi4 --port 9091

    `python -m tvm_iovt.boards` does the same on boards without click and rich. --json prints the
    log as JSON, one object a line.
    """  # noqa: D301  # click's marker for a paragraph to leave as it is
    import json

    from tvm_iovt.boards.address import check_port, parse_address
    from tvm_iovt.boards.serve import parse_size, serve_board
    from tvm_iovt.boards.supervisor import BoardOptions

    def say(line: str) -> None:
        click.echo(json.dumps({"log": line}) if as_json else line)

    options = BoardOptions(
        tracker=parse_address(tracker, what="tracker"),
        key=key,
        name=name,
        bind=bind,
        port=check_port("board", port),
        heartbeat_port=check_port("heartbeat", heartbeat_port),
        memory_limit_bytes=parse_size(memory_limit) if memory_limit else None,
    )
    try:
        serve_board(options, say)
    except KeyboardInterrupt:  # how a service is ended; no failure
        say("stopped")
