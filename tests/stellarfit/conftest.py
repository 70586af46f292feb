"""Emulators and mock stars that the tests share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import emulators
from emulators import Domain, Emulator, LabelSet
from stellarfit.parameters import STAGES, make_parameters
from stellarfit.spectrum import Spectrum
from tests.stellarfit.mocks import model_of

Array = NDArray[np.float64]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small problems gain nothing from threads, and sums keep their order without them."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    """The shipped emulator in its own precision; do not move it."""
    return emulators.load("mgb-fgk")


@pytest.fixture(scope="session")
def emulator64() -> Emulator:
    """The shipped emulator in float64."""
    return emulators.load("mgb-fgk").to(torch.float64)


class Lines(nn.Module):
    """Spectra in closed form: thirty lines of iron and magnesium, fast and smooth.

    Calcium and the other labels leave no trace.
    """

    def __init__(self, labels: LabelSet, low: float, high: float) -> None:
        super().__init__()
        rng = np.random.default_rng(4)
        self.labels = labels
        self.register_parameter("unused", nn.Parameter(torch.zeros(1, dtype=torch.float64)))
        for name, values in (
            ("centre", np.sort(rng.uniform(np.log(low), np.log(high), 30))),
            ("strength", rng.uniform(-1.5, 1.0, 30)),
            ("excitation", rng.uniform(0.0, 4.5, 30)),
            ("is_magnesium", (np.arange(30) % 5 == 0).astype(float)),
        ):
            self.register_buffer(name, torch.as_tensor(values))

    def evaluate(self, scaled: Tensor, wavelength: Tensor, *, chunk: int = 0) -> Tensor:
        low, high = scaled.new_tensor(self.labels.low), scaled.new_tensor(self.labels.high)
        values = 0.5 * (low + high) + 0.5 * scaled * (high - low)
        teff, logg, vmic, iron, magnesium = (
            values[:, self.labels.index(n), None]
            for n in ("teff", "logg", "vmic", "fe_h", "mg_h")
        )
        abundance = iron + self.is_magnesium * (magnesium - iron)
        depth = 10.0 ** (self.strength + 0.7 * abundance
                         - self.excitation * (5040.0 / teff - 0.9))
        width = 8e-6 * torch.sqrt(1.0 + vmic**2)
        x = (torch.log(wavelength) - self.centre[:, None]) / width[..., None]
        wings = 0.01 * 10.0 ** (0.3 * (logg - 4.0))[..., None] / (1.0 + 0.1 * x**2)
        return torch.exp(-(depth[..., None] * (torch.exp(-0.5 * x**2) + wings)).sum(1))


@pytest.fixture(scope="session")
def lines() -> Emulator:
    """An emulator of :class:`Lines`, 5160-5200 Å: for what needs many evaluations."""
    labels = LabelSet(("teff", "logg", "vmic", "fe_h", "mg_h", "ca_h"),
                      ("K", "dex", "km/s", "dex", "dex", "dex"),
                      (4000.0, 0.5, 0.0, -2.5, -2.9, -2.9), (7000.0, 5.0, 2.5, 1.0, 1.4, 1.4))
    box = Domain.box(labels.low, labels.high)
    ratio = np.array([[0.0, 0.0, 0.0, -1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0, -1.0, 0.0]])
    slope = np.array([[1.0 / 1000.0, -1.0, 0.0, 0.0, 0.0, 0.0]])
    domain = Domain(np.vstack([box.A, ratio, slope]), np.concatenate([box.b, [0.4, 0.4], [3.5]]))
    pixels = 5160.0 * np.exp(1e-5 * np.arange(773))
    return Emulator(Lines(labels, 5160.0, 5200.0), labels, domain, pixels, "air", name="lines")


def pixels_of(low: float, high: float, resolution: float, per_fwhm: float = 2.5) -> Array:
    """Pixels that sample the line-spread function `per_fwhm` times, uniform in ln(wavelength)."""
    step = 1.0 / (resolution * per_fwhm)
    return low * np.exp(step * np.arange(int(np.log(high / low) / step)))


@pytest.fixture(scope="session")
def observe() -> Callable[..., Spectrum]:
    """A function that observes an emulator's star, with noise and a curved continuum."""

    def make(
        emulator: Emulator, values: dict[str, float], *, wavelength: Array | None = None,
        resolution: float = 20_000.0, snr: float = 50.0, seed: int = 0, **meta: Any,
    ) -> Spectrum:
        rv = values.get("rv", 0.0)
        if wavelength is None:
            low, high = emulator.wavelength_range
            wavelength = pixels_of(low, high, resolution)
        labels = [n for n in values if n not in STAGES]
        stages = [n for n in values if n in STAGES]
        parameters = make_parameters(emulator.labels, emulator.domain, free=labels + stages,
                                     resolution=resolution)
        model = model_of(emulator, parameters, wavelength, resolution=resolution,
                         rv_range=(rv, rv))
        theta = torch.tensor([[values[n] for n in parameters.names]], dtype=torch.float64)
        with torch.no_grad():
            flux = model(theta)[0].double().cpu().numpy()
        x = np.linspace(-1.0, 1.0, len(wavelength))
        flux = flux * 1200.0 * (1.0 + 0.1 * x - 0.05 * x**2)
        sigma = np.full(len(wavelength), 1200.0 / snr)
        noise = np.random.default_rng(seed).standard_normal(len(wavelength))
        ivar = np.where(model.covers((rv, rv)), sigma**-2, 0.0)
        return Spectrum(wavelength, flux + sigma * noise, ivar=ivar, medium=emulator.medium,
                        name="mock", meta=meta)

    return make
