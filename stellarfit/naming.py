"""What the results of a file are called."""

from __future__ import annotations

import re
from pathlib import Path


def stem_of(file: str | Path) -> str:
    """Return the name that the results of a file get: ``star`` for ``spectra/star.fits.gz``."""
    name = Path(file).name
    for suffix in (".gz", Path(name.removesuffix(".gz")).suffix):
        name = name.removesuffix(suffix)
    return name


def harmless(name: str) -> str:
    """Return a name as a part of that of a file.

    >>> harmless("star.one"), harmless("../NGC 104/<c>")
    ('star.one', '.._NGC_104__c_')
    """
    return re.sub(r"[^\w.+-]", "_", name)
