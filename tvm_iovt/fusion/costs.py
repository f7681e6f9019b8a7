"""What operators cost apart and fused, for the rules to compare."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm_iovt.fusion.convolution import (
    Convolution,
    Pair,
    added_kernel_size,
    composed_kernel_size,
)
from tvm_iovt.fusion.linear_graph import AFFINE, LinearGraph, LinearOperator, Value

OperatorTime = Callable[[int, int], float]
"""Seconds that an operator of so many FLOPs and bytes takes; see `tvm_iovt.roofline.Ceilings`."""

# Stands for an unknown image size in the comparison of costs.
_NOMINAL_HW = (32, 32)


def shared_weight(
    graph: LinearGraph,
    operators: Sequence[LinearOperator],
    time: OperatorTime | None,
    together: Sequence[LinearOperator] = (),
) -> str:
    """Why weights should stay as they are: others read them, so folding would store them twice.

    Args:
        graph: The graph.
        operators: Those whose weights are looked at.
        time: None fuses all the same.
        together: All that will be fused, if more; weights that only they share are fine.
    """
    if time is None:
        return ""
    for operator in operators:
        if operator.weight is None:
            continue
        own = sum(o.weight == operator.weight for o in together or operators)
        if graph.weight_uses(operator.weight) > own:
            return f"the weight of {operator.name} is shared with another operator"
    return ""


def time_apart(graph: LinearGraph, operator: LinearOperator, time: OperatorTime | None) -> float:
    """An operator on its own; those on channels ride along with the operator before them."""
    if time is None or operator.kind in AFFINE:
        return 0.0
    form = operator.convolution()
    sizes = (form.kernel.size, form.bias.size)
    return _sized_time(graph, form, sizes, operator.operand, operator.result, time)


def fused_time(
    graph: LinearGraph,
    fused: Convolution,
    source: Value,
    result: Value,
    time: OperatorTime | None,
) -> float:
    """An operator that is yet to be written; a bias map is read as the weights are."""
    if time is None:
        return 0.0
    return _sized_time(graph, fused, (fused.kernel.size, fused.bias.size), source, result, time)


def composed_time(
    graph: LinearGraph, first: LinearOperator, last: LinearOperator, time: OperatorTime | None
) -> float:
    """Lower bound of two operators as one, from their shapes alone."""
    if time is None:
        return 0.0
    forms = first.convolution(), last.convolution()
    size = composed_kernel_size(*forms)
    area = _area(graph.image_hw(last.result) or _NOMINAL_HW)
    return time(2 * size * area, size * graph.element_bytes(last.result))


def added_time(
    graph: LinearGraph,
    operators: Sequence[Convolution],
    source: Value,
    result: Value,
    time: OperatorTime,
) -> float:
    """Parallel operators as one, from their shapes alone."""
    sizes = added_kernel_size(operators), max(operator.bias.size for operator in operators)
    return _sized_time(graph, operators[0], sizes, source, result, time)


def traffic_time(graph: LinearGraph, value: Value, channels: int, time: OperatorTime) -> float:
    """Reading or writing a tensor once more."""
    nbytes = channels * _area(graph.image_hw(value) or _NOMINAL_HW) * graph.element_bytes(value)
    return time(0, nbytes) - time(0, 0)


def pass_time(graph: LinearGraph, value: Value, channels: int, time: OperatorTime | None) -> float:
    """An operator that reads and writes a tensor once."""
    return time(0, 0) + 2 * traffic_time(graph, value, channels, time) if time is not None else 0.0


def costs_more(fused_s: float, separate_s: float) -> str:
    """The reason why operators stay apart."""
    return (
        f"costs more than it saves: estimated {fused_s * 1e6:.1f} us fused, "
        f"{separate_s * 1e6:.1f} us apart"
    )


def _sized_time(
    graph: LinearGraph,
    form: Convolution,
    sizes: tuple[int, int],
    operand: Value,
    result: Value,
    time: OperatorTime,
) -> float:
    """Time from the channels of `form` and the elements of a kernel and a bias."""
    out_hw = graph.image_hw(result) or _NOMINAL_HW
    strided = out_hw[0] * form.strides[0], out_hw[1] * form.strides[1]
    in_area = _area(graph.image_hw(operand) or strided)
    elements = form.in_channels * in_area + form.out_channels * _area(out_hw) + sum(sizes)
    return time(2 * sizes[0] * _area(out_hw), elements * graph.element_bytes(result))


def _area(hw: Pair) -> int:
    return hw[0] * hw[1]
