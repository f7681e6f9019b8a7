"""Attributes and names of ONNX nodes."""

from __future__ import annotations

from typing import Any


def attributes(node: Any) -> dict[str, Any]:
    """Attributes by name; strings are decoded."""
    from onnx import helper

    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        is_string = isinstance(value, bytes)
        found[attribute.name] = value.decode("utf-8", "replace") if is_string else value
    return found


def is_default(node: Any) -> bool:
    """Whether an operator is one of ONNX's own."""
    return node.domain in ("", "ai.onnx")


def node_name(node: Any) -> str:
    """What messages call a node."""
    return str(node.name or next(filter(None, node.output), node.op_type))


def operator_name(node: Any) -> str:
    """`Relu`, or `com.example.Thing` for others than ONNX's own."""
    return str(node.op_type) if is_default(node) else f"{node.domain}.{node.op_type}"
