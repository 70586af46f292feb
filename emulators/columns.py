"""What the name of a column says: the quantity, its unit and its medium."""

from __future__ import annotations

import re


def column_words(column: str) -> tuple[str, str, str]:
    """Return the bare name of a column in lower case, and the unit and the medium in it.

    Examples
    --------
    >>> column_words("Wavelength_air [nm]")
    ('wavelength', 'nm', 'air')
    """
    text = column.strip().strip("\"'").lower()
    unit = m.group(1).strip() if (m := re.search(r"[\[(](.*?)[\])]", text)) else ""
    name = re.sub(r"\W+", "_", re.sub(r"[\[(].*", "", text)).strip("_")
    if m := re.fullmatch(r"(.+?)_(nm|um|micron|angstroms?|aa)", name):
        name, unit = m.group(1), unit or m.group(2)
    medium = "air" if name == "awav" else ""
    if m := re.fullmatch(r"(.+?)_?(air|vac|vacuum)", name):
        name, medium = m.group(1), "air" if m.group(2) == "air" else "vacuum"
    return name, unit, medium
