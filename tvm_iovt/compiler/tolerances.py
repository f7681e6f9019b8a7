"""When the outputs of a compiled network count as those of its model."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from tvm_iovt.types import Tolerance

if TYPE_CHECKING:
    from tvm_iovt.compiler.options import CompileOptions
    from tvm_iovt.frontend.network import Network

# Two fp32 implementations of a convolution network that sum in different orders differ by a few
# 1e-6 of the largest activation, and deeper networks by some 1e-5; a wrong kernel is off by 1e-2
# and more. These bounds lie between, and near-zero elements get the absolute one.
FLOAT_TOLERANCE = Tolerance(rtol=1e-3, atol=1e-4)
# Convolutions of quantized networks are computed in exact integers and agree with the reference
# bit for bit. Whatever stays in float32 turns a last-bit difference before a rounding edge into a
# whole step after it, and further layers amplify that: ONNX Runtime's own float32 and integer modes
# are at cosines of 0.98 to 0.99 of each other on MobileNetV2. A wrong kernel is far below.
QUANTIZED_TOLERANCE = dataclasses.replace(FLOAT_TOLERANCE, min_cosine=0.95)
# Half precision has a unit in the last place of 1e-3, and the reference sums in another order (on
# x86 partly in float32): ten to twenty units.
HALF_TOLERANCE = Tolerance(rtol=2e-2, atol=1e-2)
TOLERANCES = {
    "float32": FLOAT_TOLERANCE,
    "float16": HALF_TOLERANCE,
    "quantized": QUANTIZED_TOLERANCE,
}

# bfloat16 has 8 bits of significand: each operand is off by up to 2^-9, and as the roundings are
# independent an output of L layers is off by about sqrt(2 L) / 3 of that in norm, 0.5 % for 20
# layers and 1 % for 100. What amplifies comes on top: of 32 networks on noise 31 have cosines of
# 0.9997 and more, and a text detector, whose sigmoid is near zero everywhere, has 0.993. A wrong
# kernel is far below. Elements beyond the other two bounds are counted only.
BF16_TOLERANCE = Tolerance(rtol=2e-2, atol=5e-3, min_cosine=0.99)
# float16 has 11 bits, but its sums are rounded too: after k additions by about 2^-12 sqrt(k) / 2.5
# in norm, which for the usual 10^3 terms is as much as bfloat16's rounding of the operands.
REDUCED_TOLERANCES = {"bf16": BF16_TOLERANCE, "fp16": BF16_TOLERANCE}


def tolerance_of(network: Network, options: CompileOptions) -> Tolerance:
    """The tolerance of a network's kind of arithmetic, with what the user states of it."""
    tolerance = TOLERANCES[network.arithmetic]
    if network.arithmetic == "float32":
        tolerance = REDUCED_TOLERANCES.get(options.precision, tolerance)
    return tolerance.stated(options.rtol, options.atol)
