"""HTML elements that escape what they are given: markup is only ever made by `element`."""

from __future__ import annotations

import html

from tvm_iovt.report.units import printable

_VOID = frozenset({"input", "meta", "wbr"})


class Markup(str):
    """Text that is already HTML."""

    __slots__ = ()


def element(tag: str, *children: str, **attributes: str | float | None) -> Markup:
    """An element; children that are not `Markup`, and all attribute values, are escaped.

    Args:
        tag: Element name.
        *children: Text or markup.
        **attributes: `class_` stands for `class` and other underscores for hyphens; None leaves
            the attribute out.
    """
    parts = [tag]
    for name, value in attributes.items():
        if value is not None:
            text = f"{value:g}" if isinstance(value, float) else str(value)
            key = name.rstrip("_").replace("_", "-")
            parts.append(f'{key}="{html.escape(printable(text))}"')
    start = f"<{' '.join(parts)}>"
    if tag in _VOID:
        return Markup(start)
    return Markup(f"{start}{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    """Siblings without an element around them."""
    return Markup("".join(map(_escaped, children)))


def breakable(name: str) -> Markup:
    """A name that may wrap after its separators, as paths of modules need in narrow columns."""
    text = _escaped(name)
    for separator in "/._":
        text = text.replace(separator, f"{separator}<wbr>")
    return Markup(text)


def _escaped(child: str) -> str:
    return child if isinstance(child, Markup) else html.escape(printable(child))
