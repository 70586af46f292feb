"""Model atmospheres in the formats of others: files of MARCS and ATLAS, grids of SME.

A folder of single models is a grid: :class:`ModelFolder` interpolates in it.
:func:`read_models` tells the formats apart, and our own HDF5.
"""

from __future__ import annotations

import logging
import warnings
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from emulators.synthesis.atmosphere import BOLTZMANN, C3K, Atmosphere, require_inside
from emulators.synthesis.model_files import ATLAS, MARCS, ModelFile, read_model

logger = logging.getLogger(__name__)

NAMES = ("teff", "logg", "m_h", "alpha_m")
# How far a star may lie beyond the last node, to be given that: what headers round away.
TOLERANCE = np.array([0.5, 0.005, 0.005, 0.005])
SUFFIXES = (".mod", ".krz", ".dat", ".atm")
SME = "Wehrhahn et al. 2023, A&A 671, A171 (PySME)"
COLUMNS = ("rhox", "temperature", "pressure", "electron_density", "opacity")
SUN = np.array([5777.0, 4.44, 0.0])


def read_models(path: str | Path) -> C3K | ModelFolder | SmeGrid:
    """Return the model atmospheres at a path: callables of teff, logg, [M/H] and [alpha/M].

    Parameters
    ----------
    path : path
        Our HDF5; a folder of single models of MARCS or ATLAS, or one of them; or a grid of
        PySME (``.sav``, ``.npz``).

    Raises
    ------
    FileNotFoundError
        When nothing is there.
    ValueError
        When it is none of these, or is broken.
    ModuleNotFoundError
        For grids of PySME without the extra ``stellarfit[synthesis]``.

    Examples
    --------
    >>> giant = read_models("marcs/")(4500.0, 1.5, -0.5)  # doctest: +SKIP
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no atmospheres at '{path}'")
    if path.is_file() and h5py.is_hdf5(path):
        return C3K(path)
    if path.suffix.lower() in (".sav", ".npz"):
        return SmeGrid(path)
    return ModelFolder(path)


class ModelFolder:
    """Single models of MARCS or ATLAS, and what lies between them.

    Between nodes the logarithms of all quantities are interpolated linearly in each parameter,
    layer by layer at equal optical depth, from the corners of the smallest box of nodes around
    the star.  One file answers for its own parameters alone.  Where [M/H] decides [alpha/M], as
    in the standard composition of MARCS, models are not told apart by [alpha/M], and the one
    asked for is not used.

    Parameters
    ----------
    path : path
        A folder with ``.mod``, ``.krz``, ``.dat`` or ``.atm`` files, perhaps gzipped, or one
        such file.

    Attributes
    ----------
    names : tuple of str
        ``teff`` (K), ``logg``, ``m_h``, ``alpha_m`` (dex); without the last where it follows.
    low, high : (n_name,) float64
        The range of the nodes.
    citation : str

    Raises
    ------
    ValueError
        When a file is broken, two are of one star, or there is none.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        files = sorted(f for f in path.iterdir() if _is_model(f)) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"no models of atmospheres ({', '.join(SUFFIXES)}) in '{path}'")
        models = [read_model(file) for file in files]
        self.path = path
        self.citation = "; ".join(sorted({model.citation for model in models}))
        self.names = NAMES[:3] if _alpha_follows(models) else NAMES
        self._nodes: dict[tuple[float, ...], Atmosphere] = {}
        for file, model in zip(files, models, strict=True):
            node = model.node[:len(self.names)]
            if node in self._nodes:
                raise ValueError(f"'{path}' has two models of {self._say(node)}, one of them "
                                 f"'{file.name}': keep one")
            self._nodes[node] = model.atmosphere
        self._axes = [np.unique(values) for values in zip(*self._nodes, strict=True)]
        self.low, self.high = (np.array([axis[i] for axis in self._axes]) for i in (0, -1))
        if len(self.names) == 3:
            logger.warning("[alpha/M] follows [M/H] in '%s': the one asked for is not used", path)
        if spherical := sum(model.spherical for model in models):
            logger.warning("%d of %d models in '%s' are spherical, and used as plane-parallel",
                           spherical, len(models), path)

    def __call__(
        self, teff: float, logg: float, m_h: float = 0.0, alpha_m: float = 0.0
    ) -> Atmosphere:
        """Return the atmosphere of a star.

        Raises
        ------
        ValueError
            Outside the range of the nodes, with that range, or where a corner is missing.
        """
        labels = np.array([teff, logg, m_h, alpha_m], dtype=float)[:len(self.names)]
        corners = self._box(_inside(self, labels))
        if len(corners) == 1:
            return corners[0][0]
        return _blend(teff, logg, *zip(*corners, strict=True))

    def _box(self, labels: NDArray[np.float64]) -> list[tuple[Atmosphere, float]]:
        """Return the corners of the smallest whole box of nodes around a star, with weights."""
        sides = []
        for value, axis in zip(labels, self._axes, strict=True):
            # Two on either side: a model more between the nodes of a grid leaves it whole.
            below, above = axis[axis <= value + 1e-6][-2:], axis[axis >= value - 1e-6][:2]
            sides.append([(a, b) for a in below for b in above if a <= b])
        extent = np.maximum(self.high - self.low, 1e-9)
        boxes = sorted(product(*sides), key=lambda box: np.ptp(box, axis=1) @ (1.0 / extent))
        for box in boxes:
            corners = list(product(*(dict.fromkeys(side) for side in box)))
            if all(corner in self._nodes for corner in corners):
                weights = [_weight(corner, box, labels) for corner in corners]
                return [(self._nodes[c], w) for c, w in zip(corners, weights, strict=True) if w]
        missing = next(c for c in product(*boxes[0]) if c not in self._nodes)
        raise ValueError(f"no atmosphere for {self._say(labels)}: '{self.path}' has no model of "
                         f"{self._say(missing)} beside it, though it runs from "
                         f"{self._say(self.low)} to {self._say(self.high)}")

    def _say(self, labels: Any) -> str:
        return ", ".join(f"{n} = {v:g}" for n, v in zip(self.names, labels, strict=True))


def _inside(models: ModelFolder | SmeGrid, labels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return labels, put onto the edge where they are off by less than `TOLERANCE`.

    Raises ValueError where by more, with the range.
    """
    inside = np.clip(labels, models.low, models.high)
    if (np.abs(labels - inside) > TOLERANCE[:len(labels)]).any():
        require_inside(models.names, labels, models.low, models.high)
    return inside


def _is_model(path: Path) -> bool:
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(SUFFIXES)


def _alpha_follows(models: list[ModelFile]) -> bool:
    """Return whether [M/H] tells [alpha/M], in models that differ in it."""
    pairs = {(model.m_h, model.alpha_m) for model in models}
    return len({a for _, a in pairs}) > 1 and len({m for m, _ in pairs}) == len(pairs)


def _weight(corner: tuple[float, ...], box: Any, labels: NDArray[np.float64]) -> float:
    """Return the weight of a corner: a product of linear ones."""
    weight = 1.0
    for at, (low, high), value in zip(corner, box, labels, strict=True):
        share = float(np.clip((value - low) / (high - low), 0.0, 1.0)) if high > low else 0.0
        weight *= 1.0 - share if at == low else share
    return weight


def _blend(
    teff: float, logg: float, models: tuple[Atmosphere, ...], weights: tuple[float, ...]
) -> Atmosphere:
    """Return the weighted mean of models in logarithms, at equal optical depths."""
    depths = [np.log10(model.optical_depth) for model in models]
    step = np.linspace(0.0, 1.0, max(map(len, depths)))
    # The layers lie as those of the models do on average, between the depths that all reach.
    spread = sum(weight * np.interp(step, np.linspace(0.0, 1.0, len(d)), (d - d[0]) / np.ptp(d))
                 for weight, d in zip(weights, depths, strict=True))
    top, bottom = max(d[0] for d in depths), min(d[-1] for d in depths)
    at = top + (bottom - top) * spread
    columns = {
        name: 10.0 ** sum(weight * np.interp(at, d, np.log10(getattr(model, name)))
                          for weight, d, model in zip(weights, depths, models, strict=True))
        for name in COLUMNS
    }
    return Atmosphere(teff, logg, **columns)


class SmeGrid:
    """A grid of atmospheres as SME and PySME have them, with PySME's own interpolation.

    Nothing is downloaded: the file must be there.  These grids have no [alpha/M], and the one
    asked for is not used; their optical depth, and with it the opacity, is that of the continuum
    at 5000 Å, near Rosseland's in F, G and K stars.

    Parameters
    ----------
    path : path
        A ``.sav`` of IDL, such as ``marcs2012.sav``, or the ``.npz`` that PySME makes of it.

    Attributes
    ----------
    names : tuple of str
        ``teff`` (K), ``logg``, ``m_h`` (dex).
    low, high : (3,) float64
        The range of the grid, within which some corners may be missing.
    citation : str

    Raises
    ------
    ValueError
        When it is no such grid.
    ModuleNotFoundError
        Without the extra ``stellarfit[synthesis]``.
    """

    names = NAMES[:3]

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no grid of atmospheres at '{path}'")
        with open(path, "rb") as stream:
            if stream.read(2) not in (b"SR", b"PK"):
                raise ValueError(f"'{path}' is no grid of SME's: neither a file that IDL saved "
                                 f"nor an .npz")
        try:
            from pysme.atmosphere.interpolation import AtmosphereInterpolator
            from pysme.atmosphere.savfile import SavFile
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"'{path}' is read by PySME, which is not installed: pip install "
                f"'stellarfit[synthesis]'") from error
        try:
            self._grid: Any = SavFile(str(path))
            nodes = np.array([self._grid[n] for n in ("teff", "logg", "monh")], dtype=float)
            plane = np.asarray(self._grid["radius"]) <= 1.0
        except Exception as error:  # readers of IDL's files fail in as many ways as files do
            raise ValueError(f"'{path}' is no grid of SME's that can be read: {error}") from error
        # Without a place to look in it would make a folder for downloads.
        self._interpolator: Any = AtmosphereInterpolator(lfs_atmo=False)
        self.path = path
        self.low, self.high = nodes.min(axis=1), nodes.max(axis=1)
        maker = [name for word, name in (("marcs", MARCS), ("atlas", ATLAS)) if word in path.name]
        self.citation = "; ".join([*maker, f"{path.name} of {SME}"])
        self._check(nodes, plane)
        logger.warning("'%s' has no [alpha/M]: the one asked for is not used", path)
        if not plane.all():
            logger.warning("%d of %d models in '%s' are spherical, and used as plane-parallel",
                           (~plane).sum(), len(plane), path)

    def _check(self, nodes: NDArray[np.float64], plane: NDArray[np.bool_]) -> None:
        """Check the model that is nearest to the Sun, where depth at 5000 Å is Rosseland's."""
        near = int(np.argmin(np.abs((nodes.T - SUN) / (1000.0, 1.0, 1.0)).sum(axis=1)))
        if plane[near] and abs(nodes[0, near] - SUN[0]) < 1500.0:
            try:
                self(*nodes[:, near].tolist()).check()
            except ValueError as error:
                raise ValueError(f"'{self.path}' is no grid of SME's: {error}") from error

    def __call__(
        self, teff: float, logg: float, m_h: float = 0.0, alpha_m: float = 0.0
    ) -> Atmosphere:
        """Return the atmosphere of a star.

        Raises
        ------
        ValueError
            Outside the range of the grid, with that range, or where a corner is missing.
        """
        star = _inside(self, np.array([teff, logg, m_h], dtype=float)).tolist()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of fits to a model that is the other one
                self._require_corners(*star)
                found = self._interpolator.interp_atmo_grid(self._grid, *star)
        except (RuntimeError, IndexError, ValueError) as error:
            raise ValueError(f"no atmosphere for teff = {teff:g}, logg = {logg:g}, m_h = {m_h:g} "
                             f"in '{self.path}': {error}") from error
        return _from_sme(teff, logg, found)

    def _require_corners(self, teff: float, logg: float, m_h: float) -> None:
        """Raise ValueError where PySME would extrapolate: models around a star are missing."""
        corners = self._interpolator.find_corner_models(teff, logg, m_h, self._grid)
        for name, value, axis in (("teff", teff, 2), ("logg", logg, 1), ("monh", m_h, 0)):
            values = np.asarray(self._grid[name], dtype=float)[corners]
            if ((values.min(axis) > value + 1e-4) | (values.max(axis) < value - 1e-4)).any():
                raise ValueError(f"it has no models on both sides in {name}")


def _from_sme(teff: float, logg: float, model: Any) -> Atmosphere:
    """Return an atmosphere of PySME's as ours."""
    rhox, tau, temperature, electrons, nuclei = (
        np.asarray(model[n], dtype=float) for n in ("rhox", "tau", "temp", "xne", "xna"))
    slope = np.gradient(np.log(tau), np.log(rhox))
    return Atmosphere(teff, logg, rhox, temperature,
                      BOLTZMANN * temperature * (nuclei + electrons), electrons,
                      slope * tau / rhox)
