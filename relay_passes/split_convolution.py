"""One convolution as several, so that devices can share it.

    Given:
        %c = conv2d(%x, w, pad 1)                        # 8 rows, 16 channels
        %y = relu(add(%c, b))
    Result of SplitConvolution("c", "rows", (5, 3)):
        %0 = relu(add(conv2d(%x[:, :, :6], w, pad 1 1 0 1), b))   # rows 0 to 5, and one of halo
        %1 = relu(add(conv2d(%x[:, :, 4:], w, pad 0 1 1 1), b))
        %y = concat(%0, %1, axis=2)
    Result of SplitConvolution("c", "channels", (12, 4)):
        %0 = relu(add(conv2d(%x, w[:12], pad 1), b[:12]))
        %1 = relu(add(conv2d(%x, w[12:], pad 1), b[12:]))
        %y = concat(%0, %1, axis=1)

Element-wise operators that belong to the convolution's unit are split with it. Every element of the
result is the same sum of the same products as before, so the split is exact; kernels that sum in an
order that depends on the shape (Winograd's) round differently, as they do for any two shapes.
Afterwards the parts, the slices that they read, and the `concat` are units of their own.

CoDL doi 10.1145/3498361.3538932.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Literal

import tvm
from tvm import relax

from relay_passes.annotate_cost import COSTS, OUTPUTS
from relay_passes.convolution_parts import Part, UnsplittableError, convolution_parts
from relay_passes.module_pass import module_pass
from relay_passes.outline import moved
from relay_passes.relax_tensors import op_name, static_shape
from relay_passes.rewriter import OnDecision
from relay_passes.straight_line import Node
from relay_passes.unit_costs import Units, is_tir, main_of, units_of
from relay_passes.unit_grouping import Group
from relay_passes.unit_names import model_name, short_name
from tvm_iovt.cost_graph import Unit
from tvm_iovt.errors import UsageError
from tvm_iovt.types import Decision

Axis = Literal["rows", "channels"]

_ALONG_AXIS = ("quantize", "dequantize", "nn.prelu")
"""Operators with an attribute for the axis that a vector of parameters lies along."""

AXES: dict[str, int] = {"channels": 1, "rows": 2}
"""Place of each axis in NCHW."""


@module_pass("SplitConvolution")
class SplitConvolution:
    """Splits the unit of one convolution along its result.

    Args:
        name: Of the unit, see `CostGraph.units`, or of its convolution.
        axis: What to divide the result's `rows` (its height), or its `channels`.
        sizes: Rows or channels of each part, all of the result's together.
        on_decision: Called with what was done, or why it was refused.

    Raises:
        UsageError: There is no such axis, or fewer than two parts, or an empty one.
    """

    def __init__(
        self,
        name: str,
        axis: Axis,
        sizes: Sequence[int],
        on_decision: OnDecision | None = None,
    ) -> None:
        if axis not in AXES:
            raise UsageError(
                "A convolution cannot be split along that axis",
                seen=repr(axis),
                do=f"split along {' or '.join(AXES)}",
            )
        if len(sizes) < 2 or min(sizes) < 1:
            raise UsageError(
                "A split needs at least two parts, none of them empty", seen=f"sizes {list(sizes)}"
            )
        self._name = name
        self._axis = axis
        self._sizes = tuple(sizes)
        self._on_decision = on_decision

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Split the convolution in `main` of `mod`; what cannot be split stays as it is.

        Raises:
            UsageError: `main` has no such unit.
            ModelError: `main` cannot be divided into units.
        """
        units = units_of(mod, None, None)
        unit, group = _named(units, self._name)
        sizes = " + ".join(map(str, self._sizes))
        try:
            parts = convolution_parts(group.anchor, AXES[self._axis], self._sizes)
            split = _Split(mod, units, unit, AXES[self._axis], parts)
        except UnsplittableError as refusal:
            self._decide(applied=False, reason=str(refusal))
            return mod
        self._decide(applied=True, reason=f"{self._axis} {sizes}")
        return relax.transform.CanonicalizeBindings()(split.module())

    def _decide(self, *, applied: bool, reason: str) -> None:
        if self._on_decision is not None:
            self._on_decision(
                Decision(
                    transform="SplitConvolution",
                    subject=self._name,
                    applied=applied,
                    reason=reason,
                )
            )


def _named(units: Units, name: str) -> tuple[Unit, Group]:
    for unit, group in zip(units.graph.units, units.groups, strict=True):
        if name == unit.name or name in unit.operators:
            return unit, group
    names = [unit.name for unit in units.graph.units]
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.3) or names[:3]
    raise UsageError(
        f"The network has no convolution {name!r} to split",
        seen=f"{len(names)} units; the nearest names: {', '.join(near)}",
        do="name a unit of the module's CostGraph",
    )


class _Split:
    """Writes `main` again with one group in parts."""

    def __init__(
        self, mod: Any, units: Units, unit: Unit, axis: int, parts: Sequence[Part]
    ) -> None:
        group = units.groups[unit.index]
        others = {var: f for var, f in mod.functions.items() if var.name_hint != "main"}
        self._name = unit.name
        self._line = units.line
        self._main = main_of(mod)
        self._group = group
        self._axis = axis
        self._parts = parts
        self._returned = {value for value in units.line.outputs if isinstance(value, relax.Var)}
        self._inside = {node.var for node in group.nodes}
        self._shape = static_shape(group.anchor.value)
        self._builder = relax.BlockBuilder(
            tvm.IRModule(others, attrs=mod.attrs, global_infos=mod.global_infos)
        )
        self._params = [relax.Var(param.name, param.ty) for param in self._main.params]
        self._here: dict[Any, Any] = dict(zip(self._main.params, self._params, strict=True))
        self._slices: dict[tuple[Any, int, int, int], Any] = {}
        self._end = group.nodes[-1]
        self._prologue = _prologue(group)
        self._check()

    def module(self) -> Any:
        """The module with the group of `main` in parts."""
        gone = ("global_symbol", COSTS, OUTPUTS)
        attrs = {k: v for k, v in (self._main.attrs or {}).items() if k not in gone}
        builder = self._builder
        with builder.function("main", self._params, attrs=attrs):
            with builder.dataflow():
                for node in self._line.nodes:
                    if node.var not in self._inside:
                        self._emit(moved(node.value, self._here, self._line), node.var.name, node)
                    elif node is self._end:
                        made = [self._part(number) for number in range(len(self._parts))]
                        joined = relax.op.concat(made, axis=self._axis)
                        self._emit(joined, f"{self._name}.joined", node)
            kept = [moved(value, self._here, self._line) for value in self._line.outputs]
            builder.emit_func_output(relax.Tuple(kept) if self._line.returns_tuple else kept[0])
        return builder.finalize()

    def _emit(self, expr: Any, name: str, node: Node | None = None) -> Any:
        expr = self._builder.normalize(expr)
        returned = node is not None and node.var in self._returned
        var = (relax.Var if returned else relax.DataflowVar)(name, expr.ty)
        self._builder.emit_normalized(relax.VarBinding(var, expr))
        if node is not None:
            self._here[node.var] = var
        return var

    def _part(self, number: int) -> Any:
        """The last result of the group for one part."""
        part = self._parts[number]
        anchor = self._group.anchor
        here: dict[Any, Any] = {}
        for node in self._group.nodes:
            call = node.value
            if node is anchor:
                image = self._operand(call.args[0], here, node, part.image, number)
                weight = moved(call.args[1], self._here, self._line)
                if self._axis == AXES["channels"]:
                    weight = self._sliced(weight, 0, part.begin, part.end, f"weight{number}")
                expr, name = part.convolution(image, weight), f"{self._name}.{number}"
            else:
                wanted = (part.begin, part.end, self._axis)
                if node in self._prologue:
                    wanted = part.image
                arguments = [self._operand(a, here, node, wanted, number) for a in call.args]
                expr, name = relax.Call(call.op, arguments, call.attrs), "lv"
                if model_name(node.var):
                    name = f"{node.var.name}.{number}"
            here[node.var] = self._emit(expr, name)
        return here[self._end.var]

    def _operand(
        self,
        value: Any,
        here: dict[Any, Any],
        reader: Node,
        wanted: tuple[int, int, int],
        number: int,
    ) -> Any:
        """What a part of a result needs of an operand."""
        if value in here:
            return here[value]
        whole = moved(value, self._here, self._line)
        if not isinstance(whole, (relax.Var, tvm.ir.GenericConst)):
            return whole
        begin, end, axis = wanted
        result = static_shape(
            reader.value.args[0] if reader is self._group.anchor else reader.value
        )
        shape = static_shape(whole)
        own = axis - (len(result) - len(shape))
        if op_name(reader.value) in _ALONG_AXIS and len(shape) == 1:
            own = 0 if int(reader.value.attrs.axis) % len(result) == axis else -1
        # Else it broadcasts along the axis.
        if own < 0 or shape[own] != result[axis] or (begin, end) == (0, result[axis]):
            return whole
        return self._sliced(whole, own, begin, end, f"in{number}")

    def _sliced(self, whole: Any, axis: int, begin: int, end: int, name: str) -> Any:
        key = (whole, axis, begin, end)
        if key not in self._slices:
            if isinstance(whole, tvm.ir.GenericConst):
                array = whole.value.numpy()
                index = (slice(None),) * axis + (slice(begin, end),)
                self._slices[key] = relax.const(array[index].copy(), str(whole.ty.dtype))
            else:
                cut = relax.op.strided_slice(whole, [axis], [begin], [end])
                self._slices[key] = self._emit(cut, f"{self._name}.{name}")
        return self._slices[key]

    def _check(self) -> None:
        """Refuse what cannot be computed for a part of the result alone."""
        for node in self._group.nodes:
            if node is self._group.anchor:
                continue
            if not isinstance(node.value, relax.Call) or node.role != "elementwise":
                raise UnsplittableError(
                    f"it is computed with {short_name(node)}, which is no arithmetic"
                )
            if is_tir(node.value) or op_name(node.value) == "nn.batch_norm":
                raise UnsplittableError(f"it is computed with {short_name(node)} of whole images")
            if static_shape(node.value) != self._shape and node not in self._prologue:
                raise UnsplittableError(f"it is computed with {short_name(node)} of another shape")


def _prologue(group: Group) -> list[Node]:
    """The nodes that the convolution reads."""
    found: list[Node] = []
    needed = {group.anchor.value.args[0]}
    for node in reversed(group.nodes):
        if node.index < group.anchor.index and node.var in needed:
            found.append(node)
            needed |= set(node.reads)
    return found
