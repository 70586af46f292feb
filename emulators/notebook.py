"""What objects show of themselves in a notebook: a heading, a table, and notes below."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

CELL = 'style="text-align:left;padding:0.1em 0.8em"'


def shown(
    title: str, rows: Iterable[Sequence[object]], *, head: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> str:
    """Return HTML; whatever comes from files is text in it, never markup.

    Parameters
    ----------
    title : str
    rows : iterable of sequences
        Cells of the table.
    head : sequence of str
        Names of its columns; without, the first cell of a row is its name.
    notes : sequence of str
        Lines below.
    """
    def row(cells: Sequence[object], kind: str) -> str:
        inside = "".join(f"<{kind} {CELL}>{escape(str(c))}</{kind}>" for c in cells)
        return f"<tr>{inside}</tr>"

    lines = [f"<b>{escape(title)}</b>", "<table>"]
    lines += [row(head, "th")] if head else []
    lines += [row(cells, "td") for cells in rows]
    lines += ["</table>", *(f"<div>{escape(note)}</div>" for note in notes)]
    return "\n".join(lines)


def several(names: Sequence[str], most: int = 8) -> str:
    """Return names as a text, the rest of many as their number."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
