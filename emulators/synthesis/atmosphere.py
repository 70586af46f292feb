"""Model atmospheres: temperature and pressure with depth.

The atmospheres that ship are fits to 17,038 models of the C3K grid (ATLAS12), small networks
that give the logarithm of each quantity in 80 layers: Nidever 2021, atmosnet 1.0.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.files import shipped_folder

BOLTZMANN = 1.380649e-16  # erg / K
RADIATION = 7.565733e-15  # erg / cm³ / K⁴
ATOMIC_MASS = 1.66053907e-24  # g
# Per nucleus, of the scaled solar composition for which the models were made: the density is
# part of their structure, which other abundances leave alone.
MEAN_MASS = 1.27 * ATOMIC_MASS


@dataclass(frozen=True, eq=False)
class Atmosphere:
    """A plane-parallel model atmosphere in hydrostatic equilibrium, from the top down.

    Attributes
    ----------
    teff : float
        K.
    logg : float
        Of cm/s².
    rhox : (n_layer,) float64
        Mass above, g/cm².
    temperature : (n_layer,) float64
        K.
    pressure : (n_layer,) float64
        Of the gas, dyn/cm².
    electron_density : (n_layer,) float64
        Per cm³.
    opacity : (n_layer,) float64
        Rosseland mean, cm²/g.
    """

    teff: float
    logg: float
    rhox: NDArray[np.float64]
    temperature: NDArray[np.float64]
    pressure: NDArray[np.float64]
    electron_density: NDArray[np.float64]
    opacity: NDArray[np.float64]

    @property
    def particle_density(self) -> NDArray[np.float64]:
        """Atoms, ions and molecules per cm³, without electrons, (n_layer,)."""
        return self.pressure / (BOLTZMANN * self.temperature) - self.electron_density

    @property
    def density(self) -> NDArray[np.float64]:
        """Density, g/cm³, (n_layer,)."""
        return MEAN_MASS * self.particle_density

    @property
    def optical_depth(self) -> NDArray[np.float64]:
        """Rosseland optical depth, (n_layer,): the integral of opacity over mass."""
        return self._over_mass(self.opacity)

    @property
    def radiation_pressure(self) -> NDArray[np.float64]:
        """Pressure that radiation gains from the top down, dyn/cm², (n_layer,).

        It is flux over c times optical depth while flux is radiation's; where convection takes
        over, a third of the energy density grows more slowly.
        """
        flux = 0.25 * RADIATION * self.teff**4 * self.optical_depth
        energy = RADIATION / 3.0 * (self.temperature**4 - self.temperature[0] ** 4)
        return np.asarray(np.minimum(flux, energy.clip(min=0.0)))

    def check(self, gravity: NDArray[np.float64] | None = None) -> None:
        """Check that it is the atmosphere of a star of its Teff and log g.

        Columns mixed up, other units or a file cut short show here.

        Parameters
        ----------
        gravity : (n_layer,) float64, optional
            Local gravity, cm/s², where it falls outwards; that of `logg` throughout by default.

        Raises
        ------
        ValueError
            When a number is not positive; when between log optical depths -3 and 1 gas and
            radiation miss hydrostatic equilibrium by more than 10 %; when at optical depth 2/3
            the temperature misses Teff by more than 8 %.
        """
        for name in ("rhox", "temperature", "pressure", "electron_density", "opacity"):
            wrong = np.flatnonzero(~(np.isfinite(values := getattr(self, name)) & (values > 0)))
            if len(wrong):
                raise ValueError(f"its {name} in layer {wrong[0] + 1} is {values[wrong[0]]:g}, "
                                 f"which must be positive")
        if not (np.diff(self.rhox) > 0).all():
            raise ValueError("its rhox does not rise from layer to layer")
        depth = self.optical_depth
        weight = self._over_mass(np.full(len(depth), 10.0**self.logg) if gravity is None
                                 else gravity)
        error = np.abs(self.pressure / (weight - self.radiation_pressure) - 1.0)
        # Above, little is seen; below, nothing, and radiation carries most of a supergiant.
        error = np.where((depth > 1e-3) & (depth < 10.0), error, 0.0)
        if error[worst := int(np.argmax(error))] > 0.1:
            raise ValueError(
                f"it is not in hydrostatic equilibrium at log g = {self.logg:g}: where log "
                f"optical depth is {np.log10(depth[worst]):.1f}, gas presses with "
                f"{self.pressure[worst]:.3g} dyn/cm² under a weight of {weight[worst]:.3g}")
        surface = float(np.interp(2.0 / 3.0, depth, self.temperature))
        if abs(surface / self.teff - 1.0) > 0.08:
            raise ValueError(f"its temperature at optical depth 2/3 is {surface:.0f} K, but its "
                             f"Teff {self.teff:.0f} K")

    def _over_mass(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the integral of some quantity over the mass above, (n_layer,)."""
        steps = 0.5 * (values[1:] + values[:-1]) * np.diff(self.rhox)
        return np.cumsum(np.concatenate([[values[0] * self.rhox[0]], steps]))


def require_inside(
    names: tuple[str, ...], labels: NDArray[np.float64], low: NDArray[np.float64],
    high: NDArray[np.float64],
) -> None:
    """Raise ValueError unless ``low <= labels <= high``, with the ranges that are missed."""
    if wrong := np.flatnonzero(~((low <= labels) & (labels <= high))).tolist():
        said = "; ".join(f"{names[i]} = {labels[i]:g}, but the models run from {low[i]:g} to "
                         f"{high[i]:g}" for i in wrong)
        raise ValueError(f"no atmosphere: {said}")


class Models(Protocol):
    """Model atmospheres of any star within their range."""

    citation: str

    def __call__(
        self, teff: float, logg: float, m_h: float = 0.0, alpha_m: float = 0.0
    ) -> Atmosphere:
        """Return the atmosphere of a star; a ValueError says where the range ends."""


class C3K:
    """The fits to C3K models that ship: teff, logg, [M/H] and [alpha/M] to an atmosphere.

    Parameters
    ----------
    path : path, optional
        ``data/atmospheres/c3k.h5`` by default.

    Attributes
    ----------
    names : tuple of str
        ``teff`` (K), ``logg``, ``m_h``, ``alpha_m`` (dex).
    low, high : (4,) float64
        The corners of the box inside which it answers.

    Examples
    --------
    >>> sun = C3K()(5772.0, 4.44)
    >>> bool(abs(np.interp(2 / 3, sun.optical_depth, sun.temperature) - 5772) < 200)
    True
    """

    def __init__(self, path: str | Path | None = None) -> None:
        path = Path(path) if path is not None else shipped_folder("atmospheres") / "c3k.h5"
        if not path.is_file():
            raise FileNotFoundError(f"no atmospheres at '{path}'")
        with h5py.File(path) as file:
            self.names = tuple(str(n) for n in file.attrs["labels"])
            self.low, self.high = (file.attrs[n].astype(float) for n in ("low", "high"))
            self.citation = str(file.attrs["citation"])
            self._fits = {
                name: [(layer["weight"][:].astype(float), layer["bias"][:].astype(float))
                       for _, layer in sorted(group.items())]
                for name, group in file.items()
            }

    def __call__(
        self, teff: float, logg: float, m_h: float = 0.0, alpha_m: float = 0.0
    ) -> Atmosphere:
        """Return the atmosphere of a star, in 80 layers or a few less.

        Raises
        ------
        ValueError
            Outside the range of the models, with that range.
        """
        labels = np.array([teff, logg, m_h, alpha_m], dtype=float)
        require_inside(self.names, labels, self.low, self.high)
        scaled = (labels - self.low) / (self.high - self.low) - 0.5
        # The fits are of decimal logarithms (atmosnet's own code takes them for natural ones).
        layers = {n: 10.0 ** _network(fit, scaled) for n, fit in self._fits.items()}
        # In some stars the fitted mass falls back between deep layers that lie close together;
        # through them the transfer gives no number in strong lines.
        above = np.maximum.accumulate(layers["rhox"])
        rises = np.concatenate([[True], layers["rhox"][1:] > above[:-1]])
        return Atmosphere(teff, logg, **{n: values[rises] for n, values in layers.items()})


def _network(
    layers: list[tuple[NDArray[np.float64], NDArray[np.float64]]], x: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the output of a network of linear layers with leaky ReLU between them."""
    for weight, bias in layers[:-1]:
        x = weight @ x + bias
        x = np.where(x > 0, x, 0.01 * x)
    weight, bias = layers[-1]
    return np.asarray(weight @ x + bias)
