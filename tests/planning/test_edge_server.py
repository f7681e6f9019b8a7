"""The edge and its server: where frames come from, and the one link."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.planning.edge_server import EdgeServer, edge_and_server
from tvm_iovt.planning.links import ETHERNET
from tvm_iovt.planning.places import routes_of
from tvm_iovt.types import Link


def pair(*links: str, edge_links: tuple[Link, ...] = ()) -> EdgeServer:
    specs = targets.load_devices("arm,host")
    specs = (dataclasses.replace(specs[0], links=edge_links), specs[1])
    return edge_and_server(specs, links)


def test_frames_come_from_the_edge() -> None:
    found = pair("host=1MB,2ms")
    routes = routes_of(found.specs, found.stated, found.home)
    edge, server, home = range(3)
    assert routes[home][edge].hops == routes[edge][home].hops == ()
    for a, b in ((home, server), (edge, server), (server, home)):
        (hop,) = routes[a][b].hops
        assert (hop.bytes_per_s, hop.latency_s) == (1e6, 2e-3)


@pytest.mark.parametrize("name", ["arm", "host"])
def test_either_name_states_the_link(name: str) -> None:
    link = pair(f"{name}=1MB,2ms").link
    assert link == Link(src="arm", dst="host", bytes_per_s=1e6, latency_s=2e-3, source="stated")


def test_the_files_of_the_targets_come_before_assumptions() -> None:
    measured = Link(src="arm", dst="host", bytes_per_s=5e6, latency_s=1e-3, source="measured")
    assert pair(edge_links=(measured,)).link == measured
    assert pair("arm=1MB", edge_links=(measured,)).link.bytes_per_s == 1e6
    assumed = pair().link
    assert (assumed.bytes_per_s, assumed.latency_s, assumed.source) == (*ETHERNET, "assumed")


def test_one_link_is_not_stated_twice() -> None:
    with pytest.raises(UsageError, match="one link"):
        pair("arm=1MB", "host=1MB")


def test_parts_of_one_machine_have_no_link() -> None:
    specs = targets.load_devices("host/1,host/1")
    assert edge_and_server(specs, ()).link is None
    with pytest.raises(UsageError, match="one machine"):
        edge_and_server(specs, ("host/1=1MB",))
    with pytest.raises(UsageError, match="one machine") as caught:
        edge_and_server(specs, (), apart="a trace")
    assert caught.value.seen == "a trace"


@pytest.mark.parametrize("names", ["arm", "arm,host,cuda@arm"])
def test_there_are_two(names: str) -> None:
    with pytest.raises(UsageError, match="two targets"):
        edge_and_server(targets.load_devices(names), ())
