"""Lowering of convolutions and matrix products to kernels in reduced precision.

Two things happen here. Convolutions whose inputs are 8-bit integers and whose weights are whole
numbers are computed in integers where the CPU has dot products of them; that is exact. With
bfloat16 or float16 asked for, the other convolutions and matrix products round their operands; the
tensors between them are stored in the narrow format where everything that reads them can widen
them on the way.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tvm_iovt.errors import TargetError, UsageError
from tvm_iovt.schedules import precision_kernels
from tvm_iovt.schedules.dot_instructions import bf16_instruction
from tvm_iovt.schedules.precision_kernels import FORMATS, Kernel
from tvm_iovt.schedules.precision_plans import Plan, Planner, geometry
from tvm_iovt.schedules.tensors import array_of, constant, dtype_of, op_name, shape_of
from tvm_iovt.schedules.tvm_api import PyExprMutator, mutator, relax, te, tirx
from tvm_iovt.types import CpuSpec

_OUT_EWISE_FUSABLE = 4
"""Relax's operator pattern of a kernel that element-wise operators may follow."""


@mutator
class _ReducePrecision(PyExprMutator):  # type: ignore[misc]
    """Replaces the calls that have a plan; tensors are narrowed once and shared."""

    def __init__(self, mod: Any, cpu: CpuSpec, precision: str, planner: Planner) -> None:
        super().__init__(mod)
        self.cpu = cpu
        self.format = FORMATS.get(precision)
        self.planner = planner
        self.narrowed: dict[Any, Any] = {}

    def visit_var_binding_(self, binding: Any) -> None:
        """Rewrite one binding."""
        plan = self.planner.plans.get(binding.var)
        value = self._moved(binding) if plan is None else self._planned(plan)
        if (
            isinstance(binding.var, relax.DataflowVar)
            or not self.builder_.current_block_is_dataflow()
        ):
            var = self.builder_.emit(value)
        else:
            var = self.builder_.emit_output(value)
        self.set_var_remap(binding.var, var)
        if binding.var in self.planner.stored:
            self.narrowed[binding.var] = self._narrow(var)

    def visit_dataflow_var_(self, var: Any) -> Any:
        """A tensor that is stored in the narrow format, widened."""
        if var not in self.planner.stored:
            return super().visit_dataflow_var_(var)
        assert self.format is not None
        widen = self.format.widen

        def build(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: widen(x(*i)), name="widened")

        return self._emit(build, self.narrowed[var], f"{self.format.label}_load")

    def _narrow(self, var: Any) -> Any:
        assert self.format is not None
        narrow = self.format.narrow

        def build(x: Any) -> Any:
            return te.compute(x.shape, lambda *i: narrow(x(*i)), name="narrowed")

        return self._emit(build, var, f"{self.format.label}_store")

    def _emit(self, build: Any, data: Any, hint: str) -> Any:
        return self.builder_.emit(self.builder_.call_te(build, data, primfunc_name_hint=hint))

    def _moved(self, binding: Any) -> Any:
        """What is bound, where it makes or reads quantized numbers of the other signedness."""
        call, moved = binding.value, self.planner.moved
        value = self.visit_expr(call)
        if binding.var in moved:
            dtype = "uint8" if dtype_of(call) == "int8" else "int8"
            zero_point = _shifted(call.args[2], moved[binding.var], dtype)
            return relax.op.quantize(
                *value.args[:2], zero_point, axis=int(call.attrs.axis), out_dtype=dtype
            )
        name = op_name(call)
        if name not in ("relax.dequantize", "relax.astype") or call.args[0] not in moved:
            return value
        shift, dtype = moved[call.args[0]], dtype_of(value.args[0])
        if name == "relax.astype":
            wide = self.builder_.emit(value)
            return relax.op.subtract(wide, constant(np.asarray(shift), "float32"))
        return relax.op.dequantize(
            *value.args[:2],
            _shifted(call.args[2], shift, dtype),
            axis=int(call.attrs.axis),
            out_dtype=str(call.attrs.out_dtype),
        )

    def _planned(self, plan: Plan) -> Any:
        if plan.kind == "depthwise":
            kernel, data = self._depthwise(plan)
        elif plan.kind == "integer":
            kernel, data = self._integer(plan), self.visit_expr(plan.data)
        else:
            kernel, data = self._rounded(plan), self._rounded_data(plan)
        return self.builder_.call_te(
            kernel.build,
            data,
            *(constant(value, dtype) for value, dtype in kernel.constants),
            primfunc_name_hint=kernel.hint,
            primfunc_attrs={"op_pattern": _OUT_EWISE_FUSABLE},
        )

    def _integer(self, plan: Plan) -> Kernel:
        dot = self.planner.integer
        assert dot is not None
        zero_point = plan.zero_point
        if dtype_of(plan.data) != dot.data:
            zero_point += 128 if dot.data == "uint8" else -128
        weights = array_of(plan.call.args[1])
        if op_name(plan.call) == "relax.matmul":
            return precision_kernels.dot_matmul(
                weights, _rows(plan), dot, self.cpu, zero_point=zero_point
            )
        return precision_kernels.dot_conv2d(
            weights,
            geometry(plan.call),
            dot,
            self.cpu,
            zero_point=zero_point,
            channels_first=plan.channels_first,
        )

    def _rounded(self, plan: Plan) -> Kernel:
        weights = array_of(plan.call.args[1])
        matmul = op_name(plan.call) == "relax.matmul"
        dot = bf16_instruction(self.cpu) if self.format is FORMATS["bf16"] else None
        if matmul and dot is not None:
            return precision_kernels.dot_matmul(weights, _rows(plan), dot, self.cpu)
        if matmul:
            return precision_kernels.half_matmul(weights, _rows(plan), self.cpu)
        conv, first = geometry(plan.call), plan.channels_first
        if dot is not None:
            return precision_kernels.dot_conv2d(weights, conv, dot, self.cpu, channels_first=first)
        return precision_kernels.half_conv2d(weights, conv, self.cpu, channels_first=first)

    def _rounded_data(self, plan: Plan) -> Any:
        """The data in the narrow format, where that is worth a tensor of its own."""
        if plan.data in self.narrowed:
            return self.narrowed[plan.data]
        computed = isinstance(self.planner.function.binding(plan.data), relax.Call)
        rows = (shape_of(plan.data) or ())[:-1]
        if not computed or plan.channels_first or all(extent == 1 for extent in rows):
            return self.visit_expr(plan.data)  # its kernel converts what it reads
        self.narrowed[plan.data] = self._narrow(self.visit_expr(plan.data))
        return self.narrowed[plan.data]

    def _depthwise(self, plan: Plan) -> tuple[Kernel, Any]:
        weights, conv = array_of(plan.call.args[1]), geometry(plan.call)
        if plan.data in self.narrowed:
            assert self.format is not None
            widen, label = self.format.widen, self.format.label
            kernel = precision_kernels.widened_depthwise(weights, conv, self.cpu, widen, label)
            return kernel, self.narrowed[plan.data]
        zero_point = float(plan.zero_point + self.planner.moved.get(plan.data, 0))

        def value(x: Any) -> Any:
            return tirx.Cast("float32", x) - tirx.const(zero_point, "float32")

        kernel = precision_kernels.widened_depthwise(weights, conv, self.cpu, value, "int8")
        return kernel, self.visit_expr(plan.data)


def _rows(plan: Plan) -> int:
    return (shape_of(plan.data) or (1, 1))[-2]


def _shifted(zero_point: Any, shift: int, dtype: str) -> Any:
    return constant(array_of(zero_point).astype(np.int32) + shift, dtype)


def reduce_precision(mod: Any, cpu: CpuSpec, precision: str) -> Any:
    """Lower convolutions and matrix products that have kernels in reduced precision.

    Args:
        mod: Module after channels-last propagation; weights are constants.
        cpu: Its features decide.
        precision: `bf16` rounds the operands of float32 convolutions and matrix products that have
            constant weights to bfloat16 and sums in float32; `fp16` computes them in float16; any
            other leaves those alone. Convolutions and products of 8-bit integers become integer
            arithmetic in any case, as that is exact; `int8` insists that they can.

    Raises:
        TargetError: The CPU, or the current target, has no instructions for the precision.
        UsageError: `int8` is asked for, and nothing can be computed in it.
    """
    planner = Planner(mod["main"], cpu, precision)
    if not (planner.integer if precision == "int8" else planner.rounds or precision == "fp32"):
        raise TargetError(
            f"The target cannot compute in {precision}",
            seen=f"features {', '.join(cpu.features) or 'none'}; code is generated for mcpu "
            f"{cpu.mcpu}, mattr {' '.join(cpu.mattr) or 'none'}",
            do="the [cpu] of the target file must name the feature in `features`, and switch it on "
            "for LLVM: by an `mcpu` that has it, or in `mattr` (+avx512bf16, +avx512vnni, "
            "+dotprod, +bf16, +fullfp16)",
        )
    if precision == "int8" and not any(p.kind == "integer" for p in planner.plans.values()):
        raise UsageError(
            "Nothing in the model can be computed in 8-bit integers",
            seen="no convolution or matrix product with 8-bit activations and int8 weights, that "
            "are at most 127 from their zero point",
            do="quantize activations to qint8 or quint8 and weights to qint8",
        )
    if not planner.plans:
        return mod
    mutated = _ReducePrecision(mod, cpu, precision, planner)
    function = mutated.visit_expr(mod["main"])
    mod = mutated.builder_.get()
    mod["main"] = function
    return relax.transform.DeadCodeElimination()(mod)
