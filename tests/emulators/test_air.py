"""Air and vacuum wavelengths."""

from __future__ import annotations

import numpy as np
import pytest

from emulators.air import air_to_vacuum, vacuum_to_air


def edlen_1953(vacuum: np.ndarray) -> np.ndarray:
    """The refractive index that the IAU adopted in 1957, from other measurements."""
    s2 = (1e4 / vacuum) ** 2
    return 1 + 6.4328e-5 + 2.94981e-2 / (146 - s2) + 2.5540e-4 / (41 - s2)


def test_5000_angstrom_in_vacuum_are_4998_606_in_air():
    assert vacuum_to_air(5000.0) == pytest.approx(4998.606, abs=1e-3)


def test_the_index_agrees_with_edlen_to_a_part_in_ten_million():
    vacuum = np.linspace(3000, 25000, 1000)
    np.testing.assert_allclose(vacuum_to_air(vacuum), vacuum / edlen_1953(vacuum), rtol=1e-7)


def test_known_lines_have_their_tabulated_wavelengths_in_both_media():
    # H-alpha and the strongest line of the Mg b triplet.
    vacuum, air = [6564.614, 5185.0479], [6562.801, 5183.6042]
    np.testing.assert_allclose(vacuum_to_air(vacuum), air, rtol=0, atol=1e-3)


def test_the_two_conversions_undo_each_other():
    wavelength = np.geomspace(2000.0, 3e4, 5000)
    np.testing.assert_allclose(air_to_vacuum(vacuum_to_air(wavelength)), wavelength, rtol=1e-14)
    np.testing.assert_allclose(
        vacuum_to_air(air_to_vacuum(wavelength[1:])), wavelength[1:], rtol=1e-14
    )


def test_air_wavelengths_are_the_shorter_and_keep_their_order():
    vacuum = np.linspace(2000, 20000, 100001)
    air = vacuum_to_air(vacuum)
    assert (air < vacuum).all()
    assert (np.diff(air) > 0).all()
    assert air.dtype == np.float64


@pytest.mark.parametrize("convert", [vacuum_to_air, air_to_vacuum])
def test_wavelengths_below_2000_angstrom_are_refused(convert):
    with pytest.raises(ValueError, match="start at 515 Å"):
        convert(np.array([515.0, 530.0]))
