"""What every HTML report is made of: sections, tiles, lists of facts, plain tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tvm_iovt.report.markup import Markup, element, joined


def section(title: str, lead: str, *content: str) -> Markup:
    """A heading, a sentence or two if there are any, and what they lead to."""
    return element(
        "section",
        element("h2", title),
        element("p", lead, class_="lead") if lead else joined(),
        *content,
    )


def tiles_panel(tiles: Iterable[tuple[str, str, str]]) -> Markup:
    """The numbers that matter most: name, value, note."""
    return element(
        "dl",
        *(
            element("div", element("dt", name), element("dd", value, element("small", note)))
            for name, value, note in tiles
        ),
        class_="tiles panel",
    )


def facts_list(facts: Iterable[tuple[str, str]]) -> Markup:
    """Names and values in two columns."""
    pairs = (joined(element("dt", name), element("dd", value)) for name, value in facts)
    return element("dl", *pairs, class_="facts")


def rows_table(
    names: Sequence[str], rows: Iterable[Sequence[str]], *, numeric_from: int = 99
) -> Markup:
    """A table of texts; columns from `numeric_from` on are aligned as numbers."""

    def cells(tag: str, values: Sequence[str]) -> Markup:
        return element(
            "tr",
            *(
                element(tag, value, class_="num" if column >= numeric_from else None)
                for column, value in enumerate(values)
            ),
        )

    body = [cells("td", row) for row in rows]
    return element("table", element("thead", cells("th", names)), element("tbody", *body))
