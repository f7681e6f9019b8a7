from __future__ import annotations

import contestants
import pytest
from contestants import BASE, OURS, PEERS, choose, missing, parse_variant

from tvm_iovt.errors import UsageError


def test_a_missing_runtime_is_named_with_the_command_that_installs_it(monkeypatch) -> None:
    monkeypatch.setattr(contestants, "_is_installed", lambda module: module != "pnnx")
    ncnn = next(peer for peer in PEERS if peer.name == "ncnn")
    message = missing(ncnn)
    assert message.startswith("ncnn is left out: pnnx not installed; pip install --no-deps pnnx==")
    assert not missing(next(peer for peer in PEERS if peer.name == "mnn"))


def test_every_package_is_pinned() -> None:
    for distribution in contestants.distributions(PEERS):
        assert f"{distribution}==" in contestants.install_command(distribution)


def test_the_reference_takes_part_whoever_is_chosen() -> None:
    names = [contestant.name for contestant in choose("ncnn", [])]
    assert names == [OURS, BASE, "ncnn"]
    assert [c.name for c in choose("", [])] == [OURS, *(peer.name for peer in PEERS)]


def test_an_unknown_peer_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match="tensorflow") as caught:
        choose("tensorflow", [])
    assert "openvino-default" in caught.value.do


def test_variants_have_a_name_and_options() -> None:
    variant = parse_variant("no fusion: --fuse never --rtol '1e-2'")
    assert variant.name == "no fusion"
    assert variant.compile_options == ("--fuse", "never", "--rtol", "1e-2")
    assert variant.is_ours
    with pytest.raises(UsageError, match="could not be read"):
        parse_variant("--fuse never")
