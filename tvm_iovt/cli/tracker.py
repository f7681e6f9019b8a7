"""`tvm-iovt tracker`."""

from __future__ import annotations

import json

import click

from tvm_iovt.boards.address import LOOPBACK, TRACKER_PORT, Address, check_port, is_loopback
from tvm_iovt.cli.options import common_options


@click.command("tracker")
@click.option("--host", default=LOOPBACK, show_default=True, help="Address to listen on.")
@click.option("--port", default=TRACKER_PORT, show_default=True, help="0: any that is free.")
@common_options
def tracker_command(host: str, port: int, as_json: bool, verbosity: int) -> None:
    """Run TVM's RPC tracker, which hands out boards, until Ctrl-C or SIGTERM.

    Boards register with `tvm-iovt board --tracker HOST:PORT --key KEY`; `tvm-iovt bench` and
    `tvm-iovt tune` ask for one by its key. --json prints one line with the address when it serves.
    """
    from tvm_iovt.boards.tracker_server import serve_tracker

    if not is_loopback(host):
        click.echo(
            f"warning: whoever reaches {host} can take boards from this tracker and register "
            "others; there is no password and no encryption. Listen there in a network that you "
            "trust only, or on loopback and tunnel with ssh.",
            err=True,
        )

    def ready(address: Address) -> None:
        if as_json:
            click.echo(json.dumps({"host": address.host, "port": address.port}))
        else:
            click.echo(f"tracker: {address}")

    try:
        serve_tracker(Address(host=host, port=check_port("tracker", port)), ready)
    except KeyboardInterrupt:  # how a service is ended; no failure
        click.echo("tracker stopped", err=True)
