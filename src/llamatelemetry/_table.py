"""A table as plain text and as HTML, for `print()` and for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from llamatelemetry._terminal import printable

if TYPE_CHECKING:
    from collections.abc import Sequence


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], texts: int = 1) -> str:
    """Return a table as plain text. The first `texts` columns are aligned to the left."""
    cells = [[printable(str(cell), lines=False) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if at < texts else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]
    return "\n".join([lines[0], "─" * (sum(widths) + 2 * len(widths) - 2), *lines[1:]])


def html_table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    texts: int = 1,
    notes: Sequence[str] = (),
) -> str:
    """Return a table as HTML for a notebook. All values are escaped.

    The styles are inline, because notebooks remove style sheets of outputs.
    """

    def cell(tag: str, at: int, value: str) -> str:
        align = "left" if at < texts else "right"
        style = f"text-align: {align}; padding: 2px 10px; font-variant-numeric: tabular-nums"
        return f'<{tag} style="{style}">{escape(str(value))}</{tag}>'

    def line(tag: str, row: Sequence[str]) -> str:
        return f"<tr>{''.join(cell(tag, at, value) for at, value in enumerate(row))}</tr>"

    body = "".join(line("td", row) for row in rows)
    below = "".join(f'<div style="opacity: .75">{escape(note)}</div>' for note in notes)
    return (
        f"<div><strong>{escape(title)}</strong>"
        f'<table style="border-collapse: collapse"><thead>{line("th", header)}</thead>'
        f"<tbody>{body}</tbody></table>{below}</div>"
    )
