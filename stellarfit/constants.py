"""Numbers that several modules need."""

from __future__ import annotations

import math

SPEED_OF_LIGHT = 299_792.458  # km/s, exact by definition of the metre
#: of a Gaussian
SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))
