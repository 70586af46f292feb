"""iSpec's text: columns ``waveobs``, ``flux`` and ``err`` between tabs, wavelengths in nm.

iSpec itself works in nm throughout (``ispec/spectrum.py``, ``read_spectrum``).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from emulators.conversion.content import Content
from emulators.conversion.text import read_text


def read_ispec(path: Path) -> Content:
    """Read a spectrum as iSpec writes it."""
    return replace(read_text(path), unit="nm")
