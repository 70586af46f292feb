"""The atmospheres that ship are atmospheres of the stars they are asked for."""

from __future__ import annotations

import numpy as np
import pytest

from emulators.synthesis.atmosphere import C3K


@pytest.mark.parametrize(("teff", "logg", "m_h"), [(5772, 4.44, 0.0), (4500, 2.0, -1.0),
                                                   (6500, 4.0, -2.0)])
def test_pressure_carries_the_weight_and_the_surface_has_the_effective_temperature(
    teff: float, logg: float, m_h: float
) -> None:
    model = C3K()(teff, logg, m_h)
    deep = model.optical_depth > 1e-3
    ratio = model.pressure[deep] / (10.0**logg * model.rhox[deep])
    np.testing.assert_allclose(ratio, 1.0, atol=0.05)
    assert np.interp(2 / 3, model.optical_depth, model.temperature) == pytest.approx(
        teff, rel=0.06)


def test_mass_rises_with_depth_where_the_fitted_one_falls_back() -> None:
    model = C3K()(5875.1, 3.667, -0.0453, -0.0754)
    assert 70 < len(model.rhox) < 80
    assert (np.diff(model.rhox) > 0).all()
    assert len(model.temperature) == len(model.rhox) == len(model.optical_depth)


def test_a_star_beyond_the_models_is_refused_with_their_range() -> None:
    with pytest.raises(ValueError, match="teff = 9000, but the models run from 2500 to 8500"):
        C3K()(9000.0, 4.0)
