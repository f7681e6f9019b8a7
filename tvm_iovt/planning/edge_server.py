"""Two devices, where frames come from the first one: an edge device, and a server that helps it.

In other plans the caller sits on this machine; here it sits at the edge, as a camera does that has
a computer of its own. So there is one link, between the two, and any `--link` is of that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.errors import UsageError
from tvm_iovt.partition.problem import Problem
from tvm_iovt.planning.links import ETHERNET, StatedLink, parse_links
from tvm_iovt.planning.places import devices_of, machine_of, routes_of
from tvm_iovt.planning.unit_rows import UnitRow
from tvm_iovt.types import Link, TargetSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeServer:
    """An edge device and its server.

    Attributes:
        edge: Frames come from its machine, and results are wanted there.
        server: The other one.
        link: The way between them, alike in both directions; None in one machine.
    """

    edge: TargetSpec
    server: TargetSpec
    link: Link | None

    @property
    def specs(self) -> tuple[TargetSpec, TargetSpec]:
        """Both, the edge first."""
        return self.edge, self.server

    @property
    def home(self) -> str:
        """The machine that frames come from."""
        return machine_of(self.edge, self.specs)

    @property
    def stated(self) -> tuple[StatedLink, ...]:
        """The link, as `places.routes_of` takes it."""
        if self.link is None:
            return ()
        return (
            StatedLink(
                target=self.server.name,
                bytes_per_s=self.link.bytes_per_s,
                latency_s=self.link.latency_s,
            ),
        )

    def problem(
        self, graph: CostGraph, rows: Sequence[UnitRow], *, bytes_per_s: float = 0.0
    ) -> Problem:
        """A network to be split between the two.

        Args:
            graph: Its units.
            rows: Their times on the edge, and on the server.
            bytes_per_s: Of the link, in place of its own; 0: that one.
        """
        stated = self.stated
        if bytes_per_s:
            stated = tuple(
                StatedLink(target=s.target, bytes_per_s=bytes_per_s, latency_s=s.latency_s)
                for s in stated
            )
        return Problem(
            graph=graph,
            devices=devices_of(self.specs, pipeline=False),
            unit_s=tuple(row.unit_s for row in rows),
            routes=routes_of(self.specs, stated, self.home),
        )


def edge_and_server(
    specs: Sequence[TargetSpec], links: Sequence[str], *, apart: str = ""
) -> EdgeServer:
    """The two devices of a command line.

    Args:
        specs: Its targets.
        links: Its links, see `links.parse_link`.
        apart: Why they have to be two machines, for the message; empty if they need not be.

    Raises:
        UsageError: There are not two targets, they are not two machines, or a link is not between
            them.
    """
    if len(specs) != 2:
        raise UsageError(
            "An edge device and a server are two targets",
            seen=f"{len(specs)}: {', '.join(spec.name for spec in specs)}",
            do="name the edge device first and the server second: --targets arm,host",
        )
    edge, server = specs
    stated = parse_links(links, [spec.name for spec in specs])
    if machine_of(edge, specs) == machine_of(server, specs):
        if apart or stated:
            raise UsageError(
                f"{edge.name} and {server.name} are parts of one machine: there is no link between "
                "them",
                seen=apart or "--link " + ", ".join(links),
                do="name targets of two machines, such as --targets arm,host"
                + ("" if apart else ", or leave --link out"),
            )
        return EdgeServer(edge=edge, server=server, link=None)
    if len(stated) > 1:
        raise UsageError(
            f"There is one link between {edge.name}, where the frames come from, and {server.name}",
            seen="--link " + ", ".join(links),
            do="give --link once, with the name of either",
        )
    return EdgeServer(edge=edge, server=server, link=_link(edge, server, specs, stated))


def _link(
    edge: TargetSpec, server: TargetSpec, specs: Sequence[TargetSpec], stated: Sequence[StatedLink]
) -> Link:
    """As stated, else as one of their files says, else assumed."""
    bytes_per_s, latency_s, source = *ETHERNET, "assumed"
    if stated:
        bytes_per_s, latency_s, source = stated[0].bytes_per_s, stated[0].latency_s, "stated"
    else:
        for spec, other in ((edge, server), (server, edge)):
            ends = (other.name, machine_of(other, specs), "*")
            known = [link for link in spec.links if link.dst in ends]
            if known:
                bytes_per_s, latency_s = known[0].bytes_per_s, known[0].latency_s
                source = known[0].source
                break
    return Link(
        src=edge.name,
        dst=server.name,
        bytes_per_s=bytes_per_s,
        latency_s=latency_s,
        source=source,
    )


def cut_name(graph: CostGraph, position: int) -> str:
    """The unit that a cut lies behind; empty for either end of the network."""
    return graph.units[position - 1].name if 0 < position < len(graph.units) else ""
