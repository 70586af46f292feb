"""What the results of a file are called."""

from __future__ import annotations

from pathlib import Path


def stem_of(file: str | Path) -> str:
    """Return the name that the results of a file get: ``star`` for ``spectra/star.fits.gz``."""
    name = Path(file).name
    for suffix in (".gz", Path(name.removesuffix(".gz")).suffix):
        name = name.removesuffix(suffix)
    return name
