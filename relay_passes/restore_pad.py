"""The importer's expansion of ONNX Pad, back to one operator.

TVM's ONNX importer emits the padding as a TIR call, which no other pass can look into:

    Given:
        %1 = call_tir(pad, (%x,))                  # (N, C, H, W) to (N, C, H + 2, W + 2)
    Result:
        %1 = nn.pad(%x, [0, 0, 0, 0, 1, 1, 1, 1])  # zeros

The TIR function does not tell how the zeros are divided between both ends of an axis, so it is
compared with those of all divisions. Only zeros around images are restored; other values, modes and
axes are left alone.

Run it right after the import, before the fusion passes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, topi
from tvm.relax.expr_functor import mutator

from relay_passes.relax_tensors import static_shape
from relay_passes.rewriter import OnDecision, Rewriter

# Beyond this many zeros along an axis, the divisions are too many to try.
_MAX_PADDING = 16

Widths = tuple[tuple[int, int], ...]


@tvm.transform.module_pass(opt_level=0, name="RestorePad")
class RestorePad:
    """Rewrites `call_tir` of a zero padding around images to `nn.pad`.

    Args:
        on_decision: Called with every rewrite made or refused.
    """

    def __init__(self, on_decision: OnDecision | None = None) -> None:
        self._on_decision = on_decision

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """Rewrite every Relax function of `mod`."""
        return _Rewriter(mod, "RestorePad", self._on_decision).rewrite_module()


@mutator
class _Rewriter(Rewriter):
    def visit_call_(self, call: Any) -> Any:
        call = super().visit_call_(call)
        if call.op != tvm.ir.Op.get("relax.call_tir") or len(call.args[1].fields) != 1:
            return call
        if not call.args[0].name_hint.startswith("pad"):
            return call
        operand = call.args[1].fields[0]
        before, after = static_shape(operand), static_shape(self.builder_.normalize(call))
        subject = f"pad {before} to {after}"
        if len(before) != 4 or None in (*before, *after) or before[:2] != after[:2]:
            self.decide(subject, applied=False, reason="it pads other axes than those of images")
            return call
        for widths in _divisions(before, after):
            # The name alone proves nothing: compare the code.
            function = _importer_function(operand.ty, widths)
            if tvm_ffi.structural_equal(self.mod[call.args[0]], function):
                self.decide(subject, applied=True, reason="zeros around the image")
                return relax.op.nn.pad(operand, list(itertools.chain(*widths)))
        self.decide(subject, applied=False, reason="it pads with other values than zero, or widely")
        return call


def _divisions(before: tuple[int | None, ...], after: tuple[int | None, ...]) -> Iterator[Widths]:
    """Ways to divide the padding of H and W, the most even first."""
    totals = [(b or 0) - (a or 0) for a, b in zip(before[2:], after[2:], strict=True)]
    if min(totals) < 0 or max(totals) > _MAX_PADDING:
        return
    splits = itertools.product(*([(i, t - i) for i in range(t + 1)] for t in totals))
    for rows, columns in sorted(
        splits, key=lambda split: sum(abs(first - last) for first, last in split)
    ):
        yield (0, 0), (0, 0), rows, columns


def _importer_function(operand_type: Any, widths: Widths) -> Any:
    """The PrimFunc that the importer emits for zeros of these widths."""
    builder = relax.BlockBuilder()
    operand = relax.Var("operand", operand_type)
    begin, end = ([int(pair[side]) for pair in widths] for side in (0, 1))
    with builder.function("main", [operand]):
        builder.emit_func_output(builder.emit_te(topi.nn.pad, operand, begin, end, 0.0))
    functions = builder.get().functions.items()
    return next(f for var, f in functions if var.name_hint != "main")
