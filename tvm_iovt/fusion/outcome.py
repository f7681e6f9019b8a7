"""What a fusion rule says."""

from __future__ import annotations

from dataclasses import dataclass

from tvm_iovt.fusion.convolution import Convolution
from tvm_iovt.fusion.linear_graph import LinearOperator, Term, Value


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """Operators that become one.

    Attributes:
        operators: What is replaced.
        carrier: The operator whose form (layout, types) the new one takes.
        source: What the new operator reads.
        convolution: The new operator. For a transposed convolution: what is applied to the
            channels of its result.
        rest: Terms of the sum that remain to be added.
        subject: The operators' names.
        reason: What was done.
    """

    operators: tuple[LinearOperator, ...]
    carrier: LinearOperator
    source: Value
    convolution: Convolution
    rest: tuple[Term, ...] = ()
    subject: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A pattern that is left alone, and why."""

    subject: str
    reason: str


Outcome = Fusion | Refusal | None


def describe(operator: Convolution) -> str:
    """`3x3, 48 to 96 channels`, with what is out of the ordinary."""
    parts = [
        f"{operator.size[0]}x{operator.size[1]}, {operator.in_channels} to "
        f"{operator.out_channels} channels"
    ]
    if operator.groups > 1:
        parts.append(f"{operator.groups} groups")
    if operator.dilation != (1, 1):
        parts.append(f"dilation {operator.dilation[0]}x{operator.dilation[1]}")
    if operator.has_bias_map:
        parts.append("a bias that differs along the border")
    return ", ".join(parts)
