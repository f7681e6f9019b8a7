"""Who takes part: the other runtimes, ours, and variants of ours."""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tvm_iovt.errors import UsageError

OURS = "tvm-iovt"
BASE = "onnxruntime"
"""Whose outputs are the reference, and whose time is 1 in the chart."""

_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Contestant:
    """A runtime with its settings.

    Attributes:
        name: Unique; what tables, the chart and the JSON call it.
        runtime: Key of `runtimes.LOADERS`.
        precision: What the runtime is told to compute in; empty for its default.
        is_peer: Whether it computes in float32, and so is a peer that we are compared with.
        compile_options: Of a variant of ours, as for `tvm-iovt compile`.
    """

    name: str
    runtime: str
    precision: str = ""
    is_peer: bool = True
    compile_options: tuple[str, ...] = ()

    @property
    def is_ours(self) -> bool:
        return self.runtime == OURS


PEERS = (
    Contestant(BASE, "onnxruntime"),
    Contestant("openvino", "openvino", precision="f32"),
    Contestant("ncnn", "ncnn"),
    Contestant("mnn", "mnn"),
    # bfloat16 on CPUs that have it: faster and less exact, so it is shown and not compared with.
    Contestant("openvino default", "openvino", is_peer=False),
)

# Module and distribution of what a runtime needs.
_PACKAGES = {
    "onnxruntime": (("onnxruntime", "onnxruntime"),),
    "openvino": (("openvino", "openvino"),),
    "ncnn": (("ncnn", "ncnn"), ("pnnx", "pnnx")),
    "mnn": (("MNN", "MNN"),),
    OURS: (("tvm", "apache-tvm"),),
}


def distributions(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """What pip calls the packages of these runtimes."""
    named = (distribution for c in contestants for _, distribution in _PACKAGES[c.runtime])
    return tuple(dict.fromkeys(named))


def missing(contestant: Contestant) -> str:
    """Why a runtime cannot take part and what to do about it; empty if it can."""
    lacking = [d for module, d in _PACKAGES[contestant.runtime] if not _is_installed(module)]
    if not lacking:
        return ""
    commands = " && ".join(install_command(distribution) for distribution in lacking)
    return f"{contestant.name} is left out: {' and '.join(lacking)} not installed; {commands}"


def install_command(distribution: str) -> str:
    """The pip command for the version that the requirement files pin."""
    for file, option in (("requirements.txt", ""), ("requirements-no-deps.txt", "--no-deps ")):
        for line in (_HERE / file).read_text(encoding="utf-8").splitlines():
            if line.partition("==")[0] == distribution:
                return f"pip install {option}{line}"
    return f"pip install {distribution}"


def choose(names: str, variants: Sequence[str]) -> tuple[Contestant, ...]:
    """Ours, its variants and the peers of these comma-separated names (empty: all of them).

    Raises:
        UsageError: A name or a variant cannot be understood.
    """
    known = {peer.name.replace(" ", "-"): peer for peer in PEERS}
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            raise UsageError(f"There is no peer {name!r}", do=f"use some of: {','.join(known)}")
    if BASE not in wanted:
        wanted = [BASE, *wanted]  # the outputs of all others are compared with it
    ours = (Contestant(OURS, OURS), *map(parse_variant, variants))
    return (*ours, *(known[name] for name in wanted))


def parse_variant(text: str) -> Contestant:
    """`"no fusion: --fuse never"` -> a contestant that is compiled with these options.

    Raises:
        UsageError: There is no name, or no colon behind it.
    """
    name, colon, options = text.partition(":")
    if not colon or not name.strip():
        raise UsageError(
            "A variant could not be read",
            seen=f"--ours {text!r}",
            do="write NAME: OPTIONS as for `tvm-iovt compile`, "
            "for example --ours 'unfused: --fuse never'",
        )
    return Contestant(name.strip(), OURS, compile_options=tuple(shlex.split(options)))


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
