"""What all pictures share: colours that stay apart, a figure without a window, a whole file.

Hues stay apart for the colour-blind (Okabe & Ito 2008, https://jfly.uni-koeln.de/color); where
several curves share a panel they differ in style too, for print in grey.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from emulators.files import atomic_write

INK, GREY = "#222222", "#BBBBBB"
ORANGE, SKY, GREEN, BLUE = "#E69F00", "#56B4E9", "#009E73", "#0072B2"
VERMILION, PURPLE = "#D55E00", "#CC79A7"
#: colour and style of curves in one panel, in this order
CURVES = ((BLUE, "-"), (VERMILION, "--"), (GREEN, "-."), (PURPLE, ":"), (INK, "-"),
          (ORANGE, "--"), (SKY, "-."))


def new_figure(width: float, height: float, *, constrained: bool = True) -> Any:
    """Return an empty matplotlib figure of a size in inches.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    try:
        from matplotlib.figure import Figure  # no pyplot: no window system, no global state
    except ImportError as error:
        raise ImportError("plots need matplotlib: pip install 'stellarfit[plot]'") from error
    return Figure(figsize=(width, height), layout="constrained" if constrained else None)


def finish(figure: Any, path: str | Path | None) -> Any:
    """Return a figure, or write it to a path (format by suffix) and return that."""
    if path is None:
        return figure
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=150)
    return Path(path)
