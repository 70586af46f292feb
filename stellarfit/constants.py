"""Numbers that several modules need."""

from __future__ import annotations

import math

SPEED_OF_LIGHT = 299_792.458  # km/s, exact by definition of the metre
#: sigma of a Gaussian in units of its full width at half maximum; `emulators.lessons`, which
#: imports nothing from here, has it too
SIGMA_PER_FWHM = 1.0 / math.sqrt(8.0 * math.log(2.0))
