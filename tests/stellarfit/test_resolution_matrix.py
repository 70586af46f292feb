"""Matrices of resolution: the band is the matrix, and equals the Gaussian it was made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse import dia_matrix
from scipy.special import erf

from stellarfit.arm import Arm
from stellarfit.doppler import log_shift
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters
from stellarfit.resolution_matrix import PixelMatrix

STAR = torch.tensor([[5600.0, 4.3, 1.2, -0.2, 20.0]], dtype=torch.float64)
FREE = ("teff", "logg", "vmic", "fe_h", "rv")


def desi_data(n_pix: int, n_diagonal: int = 11, seed: int = 0) -> np.ndarray:
    """Random diagonals in the order of a DESI file, the uppermost first."""
    return np.random.default_rng(seed).uniform(0.01, 1.0, (n_diagonal, n_pix))


def test_the_band_applies_the_sparse_matrix_that_desi_means() -> None:
    data, flux = desi_data(60), np.random.default_rng(1).uniform(0.5, 1.0, 60)
    dense = dia_matrix((data, np.arange(5, -6, -1)), shape=(60, 60)).toarray()
    expected = dense @ flux / dense.sum(axis=1)
    ours = PixelMatrix.from_desi(data).apply(torch.as_tensor(flux))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-12)


def test_a_continuum_stays_one_and_an_empty_row_is_told() -> None:
    data = desi_data(40)
    dense = dia_matrix((data, np.arange(5, -6, -1)), shape=(40, 40)).toarray()
    dense[17] = 0.0
    band = np.array([[dense[i, i + d - 5] if 0 <= i + d - 5 < 40 else 0.0 for i in range(40)]
                     for d in range(11)])
    matrix = PixelMatrix(band)
    torch.testing.assert_close(matrix.apply(torch.ones(40, dtype=torch.float64)),
                               torch.ones(40, dtype=torch.float64))
    assert np.flatnonzero(matrix.empty).tolist() == [17]


def gaussian_matrix(n_pix: int, sigma: float, half: int = 12) -> PixelMatrix:
    """Pixel i sees pixel j as much as a Gaussian of sigma pixels, centred in i, lies in j."""
    offset = np.arange(-half, half + 1)
    weight = 0.5 * (erf((offset + 0.5) / sigma / np.sqrt(2)) - erf((offset - 0.5) / sigma
                                                                   / np.sqrt(2)))
    return PixelMatrix(np.tile(weight[:, None], (1, n_pix)))


def test_pixels_hold_what_the_matrix_makes_of_the_stars_means(lines) -> None:
    wavelength = np.arange(5166.0, 5194.0, 0.8)                  # DESI's pixels
    p = make_parameters(lines.labels, lines.domain, free=FREE, resolution=5_000)
    matrix = gaussian_matrix(len(wavelength), 1.1)
    arm = Arm(wavelength, Instrument("matrix", 5_000), matrix=matrix)
    model = ForwardModel(lines, p, [arm])
    with torch.no_grad():
        ours = model(STAR)[0].numpy()
        fine = wavelength[:, None] + 0.8 * ((np.arange(400) + 0.5) / 400 - 0.5)
        rest = torch.as_tensor(fine.ravel()) / torch.exp(log_shift(STAR[0, 4]))
        means = lines.flux(model.labels(STAR), rest)[0].unflatten(0, (-1, 400)).mean(-1)
    expected = matrix.apply(means).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_a_matrix_says_what_resolution_it_amounts_to() -> None:
    wavelength = 5200.0 * np.exp(1e-5 * np.arange(300))
    found = gaussian_matrix(300, 2.0).resolution(wavelength)
    sigma = np.sqrt(2.0**2 + 1.0 / 12.0) * 1e-5          # sampled by whole pixels
    assert found == pytest.approx(1.0 / sigma / np.sqrt(8 * np.log(2)), rel=1e-3)


def test_what_is_no_matrix_is_refused() -> None:
    with pytest.raises(ValueError, match="odd number of diagonals"):
        PixelMatrix(np.ones((4, 10)))
    with pytest.raises(ValueError, match="not finite"):
        PixelMatrix(np.full((3, 10), np.nan))
