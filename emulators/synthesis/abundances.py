"""The composition of a star from its labels, on a solar scale.

`he_frac` and ``X_h`` become ``A(X) = log10 N(X)/N(H) + 12`` of every element:
``A(X) = A_sun(X) + [X/H]`` and ``N(He)/N(H) = he_frac / (1 - he_frac)``.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from emulators.synthesis.elements import ELEMENTS

_NONE = np.nan
# Asplund, Grevesse, Sauval & Scott 2009, ARA&A 47, 481, table 1: photospheric, meteoritic where
# there is no line to measure.
_ASPLUND_2009 = (
    12.00, 10.93, 1.05, 1.38, 2.70, 8.43, 7.83, 8.69, 4.56, 7.93, 6.24, 7.60, 6.45, 7.51, 5.41,
    7.12, 5.50, 6.40, 5.03, 6.34, 3.15, 4.95, 3.93, 5.64, 5.43, 7.50, 4.99, 6.22, 4.19, 4.56,
    3.04, 3.65, 2.30, 3.34, 2.54, 3.25, 2.52, 2.87, 2.21, 2.58, 1.46, 1.88, _NONE, 1.75, 0.91,
    1.57, 0.94, 1.71, 0.80, 2.04, 1.01, 2.18, 1.55, 2.24, 1.08, 2.18, 1.10, 1.58, 0.72, 1.42,
    _NONE, 0.96, 0.52, 1.07, 0.30, 1.10, 0.48, 0.92, 0.10, 0.84, 0.10, 0.85, -0.12, 0.85, 0.26,
    1.40, 1.38, 1.62, 0.92, 1.17, 0.90, 1.75, 0.65, _NONE, _NONE, _NONE, _NONE, _NONE, _NONE,
    0.02, _NONE, -0.54,
)
#: A(X) of the Sun by atomic number, NaN where none is known
SOLAR_SCALES: dict[str, NDArray[np.float64]] = {
    "asplund2009": np.array(_ASPLUND_2009 + (_NONE,) * (len(ELEMENTS) - len(_ASPLUND_2009))),
}
HELIUM = 1
# So little of an element that none of its lines can be seen.
ABSENT = -20.0


def abundances(labels: Mapping[str, float], scale: str = "asplund2009") -> NDArray[np.float64]:
    """Return A(X) of all elements from hydrogen, NaN for those without a solar value.

    Parameters
    ----------
    labels : mapping of str to float
        ``he_frac`` and ``X_h``; other labels are left alone, elements that are not there are
        solar.  ``-inf`` for an ``X_h`` takes the element away.
    scale : str
        The solar scale, ``asplund2009``.

    Raises
    ------
    ValueError
        For an unknown scale, or an element that has no value on it.

    Examples
    --------
    >>> float(abundances({"fe_h": -1.0})[25])
    6.5
    """
    if scale not in SOLAR_SCALES:
        raise ValueError(f"unknown solar scale {scale!r}; valid: {', '.join(SOLAR_SCALES)}")
    values = SOLAR_SCALES[scale].copy()
    if "he_frac" in labels:
        helium = labels["he_frac"]
        values[HELIUM] = 12.0 + np.log10(max(helium / (1.0 - helium), 1e-10))
    for name, value in labels.items():
        if name.endswith("_h"):
            symbol = name.removesuffix("_h").capitalize()
            if symbol not in ELEMENTS or np.isnan(values[ELEMENTS.index(symbol)]):
                raise ValueError(f"{name}: the scale {scale} has no element {symbol!r}")
            values[ELEMENTS.index(symbol)] += value
    return np.maximum(values, ABSENT)
