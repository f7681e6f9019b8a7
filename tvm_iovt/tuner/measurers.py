"""Who measures for a run: processes of this machine, or boards of a tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tvm_iovt.tuner.options import TuneOptions
from tvm_iovt.types import TargetSpec

if TYPE_CHECKING:
    from tvm_iovt.boards.session import BoardRequest
    from tvm_iovt.build.link import Linker
    from tvm_iovt.tuning.build_pool import Builder
    from tvm_iovt.tuning.trial import Measurer

_NETWORK_TIMEOUT_S = 120.0
"""For uploading, running or timing a network on a board."""


def measurer_of(spec: TargetSpec, options: TuneOptions) -> tuple[Measurer, tuple[str, ...]]:
    """Who measures, and their names."""
    from tvm_iovt import host_cpu
    from tvm_iovt.tuning.device_kind import device_kind
    from tvm_iovt.tuning.pool import RUNNER, LocalMeasurer

    cores = host_cpu.usable_cores()
    threads = device_kind(spec).threads or 1
    if options.tracker:
        from tvm_iovt.boards.address import parse_address
        from tvm_iovt.boards.board_measurer import BoardMeasurer

        address = parse_address(options.tracker, what="tracker")
        builder = _builder_of(spec, options)
        try:
            boards = BoardMeasurer(
                address,
                options.key,
                builder,
                cpu=spec.cpu,
                threads=threads,
                run_timeout_s=options.run_timeout_s,
            )
        except BaseException:
            builder.close()
            raise
        return boards, (f"boards of key {options.key}",)
    local = LocalMeasurer(
        spec,
        jobs=options.jobs or cores,
        threads=threads,
        build_timeout_s=options.build_timeout_s,
        run_timeout_s=options.run_timeout_s,
    )
    return local, (RUNNER,)


def _builder_of(spec: TargetSpec, options: TuneOptions) -> Builder:
    """Who builds kernels for boards."""
    from tvm_iovt import host_cpu
    from tvm_iovt.tuning.build_pool import BuildPool

    if options.dask:
        from tvm_iovt.tuning.dask_builds import DaskBuilder

        return DaskBuilder(
            spec,
            options.dask,
            cross_compiler=options.cross_compiler,
            build_timeout_s=options.build_timeout_s,
        )
    return BuildPool(
        spec,
        jobs=options.jobs or host_cpu.usable_cores(),
        cross_compiler=options.cross_compiler,
        build_timeout_s=options.build_timeout_s,
    )


def linker_of(spec: TargetSpec, options: TuneOptions) -> Linker:
    """What links libraries for the boards."""
    from tvm_iovt.build.link import find_linker

    return find_linker(spec.cpu, prefer=options.cross_compiler or spec.cross_compiler)


def board_request(options: TuneOptions) -> BoardRequest:
    """Asks for a board to run whole networks on."""
    from tvm_iovt.boards.address import parse_address
    from tvm_iovt.boards.session import BoardRequest

    return BoardRequest(
        tracker=parse_address(options.tracker, what="tracker"),
        key=options.key,
        timeout_s=_NETWORK_TIMEOUT_S,
    )
