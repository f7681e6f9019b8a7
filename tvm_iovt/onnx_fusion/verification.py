"""Whether a fused model computes what the original does: both in ONNX Runtime, on three inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tvm_iovt.discrepancy import ROUNDING, compare, stated_bound
from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.frontend.arithmetic import arithmetic
from tvm_iovt.frontend.network import Arrays, sample_inputs
from tvm_iovt.frontend.onnx_model import dimensions, graph_inputs, tensor_spec
from tvm_iovt.frontend.reference import OnnxReference
from tvm_iovt.frontend.shapes import fix_shapes
from tvm_iovt.types import Discrepancy, TensorSpec, Tolerance

if TYPE_CHECKING:
    import onnx

# The algebra is exact to 1e-13. What is left are the rounding of the fused weights and sums in
# another order: some 1e-6 of an output's largest number in float32. A wrong kernel is off by 1e-2
# and more. Elements near zero are sums of large numbers, so each is held to the largest one.
_RELATIVE = {"float32": 1e-4, "float16": 2e-2, "quantized": 1e-4}
# An output of tiny numbers is allowed units in the last place around 1, up to this share of them.
_LARGEST_RATIO = 0.05
# Classes of pixels and the like: near ties may flip.
_FLIPS = 1e-3
# Activations on a rounding edge of a quantized network move by a whole step, which is amplified
# from layer to layer; the direction of the outputs stays.
_MIN_COSINE = {"quantized": 0.95}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputCheck:
    """One output of the fused model against the original's, on one input.

    Attributes:
        sample: The input, in words.
        largest: Largest finite absolute value of the original's output.
        allowed: Bound of the difference of each element; None where the cosine decides.
        is_integer: Whether the output holds no floating-point numbers.
        discrepancy: Of that output alone.
    """

    sample: str
    largest: float
    allowed: float | None
    is_integer: bool
    discrepancy: Discrepancy

    @property
    def passed(self) -> bool:
        """Whether the output is near enough; of integers, one in a thousand may differ."""
        return self.discrepancy.passed or (self.is_integer and 0 < self.share <= _FLIPS)

    @property
    def name(self) -> str:
        """Name of the output."""
        return self.discrepancy.outputs[0].name

    @property
    def share(self) -> float:
        """How many of the elements are outside of the tolerance."""
        output = self.discrepancy.outputs[0]
        return output.violations / max(output.elements, 1)

    @property
    def max_abs(self) -> float:
        """Largest difference of an element."""
        return self.discrepancy.outputs[0].max_abs

    @property
    def max_rel(self) -> float:
        """`max_abs` as a share of `largest`."""
        return self.max_abs / self.largest if self.largest else self.max_abs

    @property
    def limit(self) -> str:
        """What is allowed, in words."""
        if self.is_integer:
            return f"{_FLIPS:.1%} of the elements"
        return str(self.discrepancy.tolerance) if self.allowed is None else f"{self.allowed:.2g}"

    @property
    def severity(self) -> tuple[bool, float]:
        """Orders checks: those that failed last, then by the share of what is allowed."""
        if self.is_integer:
            return not self.passed, self.share / _FLIPS
        return not self.passed, self.max_abs / self.allowed if self.allowed else self.max_rel


def check_fused(
    original: onnx.ModelProto,
    fused: onnx.ModelProto,
    input_shapes: Mapping[str, tuple[int, ...]],
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> tuple[OutputCheck, ...]:
    """Run both models on normal numbers, on ten times as large ones, and on zeros.

    Args:
        original: The model before.
        fused: The model after.
        input_shapes: Shapes of inputs that the model leaves open; a first axis alone may stay
            open and is 1 then.
        rtol: Allowed difference as a share of the largest number of each output; by default what
            the model's arithmetic calls for. A few units in the last place around 1 (1e-6) are
            always allowed unless that is 0, but never more than a twentieth of that number.
        atol: Allowed difference besides.

    Raises:
        UsageError: An input has open axes and no shape is given, or a tolerance is negative.
        ModelError: ONNX Runtime cannot run the model, or a shape contradicts it.
    """
    specs = input_specs(original, input_shapes)
    bound = _bound(original, rtol, atol)
    reference, candidate = OnnxReference(original), OnnxReference(fused)
    checks: list[OutputCheck] = []
    for sample, inputs in _samples(specs).items():
        expected, actual = reference(inputs), candidate(inputs)
        checks += [_check(sample, n, actual[n], expected[n], bound) for n in expected]
    return tuple(checks)


def input_specs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[TensorSpec, ...]:
    """The inputs to run a model with.

    Raises:
        UsageError: An axis is open that is not the first, and no shape is given.
        ModelError: A shape contradicts the model, or an input is no tensor of numbers.
    """
    import onnx

    inputs = onnx.ModelProto()  # the weights need not be copied
    inputs.graph.input.extend(graph_inputs(model))
    for value in inputs.graph.input:
        if not value.type.HasField("tensor_type"):
            raise _cannot_verify(f"input {value.name!r} is no tensor")
        shape = dimensions(value)
        if value.name in shapes:
            continue
        if shape is None or any(not isinstance(size, int) or size < 1 for size in shape[1:]):
            raise UsageError(
                f"The sizes of input {value.name!r} are open, and the comparison needs some",
                seen="unknown rank" if shape is None else "x".join(map(str, shape)),
                do=f"name sizes to run with, for example --input-shape {value.name}="
                f"{_example(shape)}; the written model stays open. --no-verify leaves out the "
                "comparison",
            )
        if shape and (not isinstance(shape[0], int) or shape[0] < 1):
            value.type.tensor_type.shape.dim[0].dim_value = 1
    specs = tuple(tensor_spec(value) for value in fix_shapes(inputs, shapes).graph.input)
    for spec in specs:
        if spec.dtype not in _FEEDABLE:
            raise _cannot_verify(f"input {spec.name!r} holds {spec.dtype}")
    return specs


_FEEDABLE = frozenset(
    {"bool", "float16", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)


def _cannot_verify(seen: str) -> ModelError:
    return ModelError(
        "No inputs can be made up for this model",
        seen=seen,
        do="--no-verify writes the fused model without a comparison",
    )


def _example(shape: tuple[int | str, ...] | None) -> str:
    sizes = shape or ("?", 3, "?", "?")
    return "x".join(
        str(size) if isinstance(size, int) and size > 0 else ("224" if axis else "1")
        for axis, size in enumerate(sizes)
    )


def _samples(specs: tuple[TensorSpec, ...]) -> dict[str, Arrays]:
    large = sample_inputs(specs, seed=1)
    for name, array in large.items():
        if array.dtype.kind == "f":
            large[name] = (array * 10).astype(array.dtype)
    zeros = {spec.name: np.zeros(spec.shape, spec.dtype) for spec in specs}
    return {"normal": sample_inputs(specs), "normal x 10": large, "zeros": zeros}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bound:
    """What is allowed of an output: `atol + rtol * largest`, or the cosine alone."""

    rtol: float
    atol: float
    min_cosine: float | None

    def allowed(self, largest: float) -> float:
        if not self.rtol:
            return self.atol
        # A sigmoid is off by units in the last place around 1 even where it is tiny.
        rounding = min(ROUNDING, _LARGEST_RATIO * largest) if largest else ROUNDING
        return self.atol + max(self.rtol * largest, rounding)

    def tolerance(self, largest: float) -> Tolerance:
        atol = stated_bound(self.allowed(largest), largest)
        return Tolerance(rtol=0.0, atol=atol, min_cosine=self.min_cosine)


def _bound(model: onnx.ModelProto, rtol: float | None, atol: float | None) -> _Bound:
    if any(bound is not None and not bound >= 0 for bound in (rtol, atol)):
        raise UsageError("Tolerances must not be negative", seen=f"rtol {rtol}, atol {atol}")
    kind = arithmetic(model)
    stated = rtol is not None or atol is not None
    return _Bound(
        rtol=_RELATIVE[kind] if rtol is None else rtol,
        atol=atol or 0.0,
        min_cosine=None if stated else _MIN_COSINE.get(kind),
    )


def _check(sample: str, name: str, y: Any, r: Any, bound: _Bound) -> OutputCheck:
    y, r = np.asarray(y), np.asarray(r)
    largest = 0.0
    if r.dtype.kind == "f":
        largest = float(np.abs(r[np.isfinite(r)].astype(np.float64)).max(initial=0.0))
    tolerance = bound.tolerance(largest)
    discrepancy = compare({name: y}, {name: r}, tolerance=tolerance, reference=OnnxReference.name())
    return OutputCheck(
        sample=sample,
        largest=largest,
        allowed=bound.allowed(largest) if bound.min_cosine is None else None,
        is_integer=r.dtype.kind != "f",
        discrepancy=discrepancy,
    )
