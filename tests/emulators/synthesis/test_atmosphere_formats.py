"""Models of MARCS, ATLAS and SME are read as what they are, and not where they are none."""

from __future__ import annotations

import gzip
import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from emulators.files import shipped_folder
from emulators.synthesis.atmosphere import BOLTZMANN, C3K, Atmosphere
from emulators.synthesis.atmosphere_formats import ModelFolder, SmeGrid, read_models
from emulators.synthesis.model_files import read_model
from emulators.synthesis.recipe import GridRecipe

COLUMNS = ("rhox", "temperature", "pressure", "electron_density", "opacity")
PRAD_ABOVE = 1.5  # dyn/cm², of the radiation that leaves


@cache
def star(teff: float, logg: float, m_h: float = 0.0, alpha_m: float = 0.0) -> Atmosphere:
    """Return an atmosphere to be written down, without the deepest layers: their fits ripple."""
    whole = C3K()(teff, logg, m_h, alpha_m)
    seen = whole.optical_depth < 30.0
    return replace(whole, **{n: getattr(whole, n)[seen] for n in COLUMNS})


def heights(model: Atmosphere) -> NDArray[np.float64]:
    """Return geometrical depth below Rosseland optical depth 1, cm, (n_layer,)."""
    steps = np.diff(model.rhox) / (0.5 * (model.density[1:] + model.density[:-1]))
    depth = np.concatenate([[0.0], np.cumsum(steps)])
    return depth - np.interp(1.0, model.optical_depth, depth)


def marcs(model: Atmosphere, *, m_h: float = 0.0, alpha_m: float = 0.0,
          radius: float = 1.0) -> str:
    """Return a .mod of MARCS, in the columns of its site."""
    gravity, depth = 10.0**model.logg, heights(model)
    local = gravity * (radius / (radius - depth[0])) ** 2 if radius > 1.0 else gravity
    kind = ("1 cm radius for plane-parallel models" if radius == 1.0
            else "Radius [cm] at Tau(Rosseland)=1.0")
    lines = [
        f"p{model.teff:.0f}_g{model.logg:+.1f}_m0.0_t01_st_z+0.00_a+0.00_c+0.00",
        f"{model.teff:7.0f}.      Teff [K].         Last iteration; yyyymmdd=20080521",
        f"{5.6704e-5 * model.teff**4:12.4E} Flux [erg/cm2/s]",
        f"{gravity:12.4E} Surface gravity [cm/s2]",
        "  1.0        Microturbulence parameter [km/s]",
        "  0.0        No mass for plane-parallel models",
        f" {m_h:+5.2f} {alpha_m:+5.2f} Metallicity [Fe/H] and [alpha/Fe]",
        f"{radius:12.4E} {kind}",
        "  1.6389E-12 Luminosity [Lsun] FOR A RADIUS OF 1 cm!",
        "  1.50 8.00 0.076 0.00 are the convection parameters: alpha, nu, y and beta",
        "  0.73826 0.24954 1.22E-02 are X, Y and Z, 12C/13C=89 (=solar)",
        "Logarithmic chemical number abundances, H always 12.00",
        *[" " + " ".join(["  1.00"] * 10)] * 9, "   1.00 -99.00",
        f"{len(model.rhox):4d} Number of depth points", "Model structure",
        " k lgTauR  lgTau5    Depth     T        Pe          Pg         Prad       Pturb",
    ]
    log_depth = np.log10(model.optical_depth)
    pressure = PRAD_ABOVE + model.radiation_pressure
    lines += [
        f"{k + 1:3d}{log_depth[k]:6.2f}{log_depth[k]:8.4f}{depth[k]:11.3E}"
        f"{model.temperature[k]:8.1f}"
        f"{model.electron_density[k] * BOLTZMANN * model.temperature[k]:12.4E}"
        f"{model.pressure[k]:12.4E}{pressure[k]:12.4E}{0.0:12.4E}"
        for k in range(len(depth))
    ]
    lines.append(" k lgTauR    KappaRoss   Density   Mu      Vconv   Fconv/F      RHOX")
    lines += [
        f"{k + 1:3d}{log_depth[k]:6.2f}{model.opacity[k]:12.4E}{model.density[k]:12.4E}"
        f"{1.267:6.3f}{0.0:11.3E}{0.0:8.5f}{model.rhox[k] + PRAD_ABOVE / local:14.6E}"
        for k in range(len(depth))
    ]
    lines += ["Assorted logarithmic partial pressures",
              " k  lgPgas   H I    H-     H2     H2+    H2O    OH     CH     CO     CN     C2  "]
    return "\n".join(lines) + "\n"


def atlas(model: Atmosphere, *, scale: float = 1.0, title: str = "[0.0]", iron: float = -4.54,
          alpha_m: float = 0.0) -> str:
    """Return a deck of ATLAS9, with the abundances of Grevesse & Sauval (1998)."""
    values = {12: -4.46 + alpha_m, 14: -4.49 + alpha_m, 20: -5.68 + alpha_m, 22: -7.02 + alpha_m,
              24: -6.37, 26: iron, 28: -5.79}
    listed = [f"{z:2d} {values.get(z, -10.94):6.2f}" for z in range(3, 100)]
    lines = [
        f"TEFF   {model.teff:.0f}.  GRAVITY {model.logg:.5f} LTE",
        f"TITLE  {title} VTURB=2  L/H=1.25 NOVER NEW ODF",
        " OPACITY IFOP 1 1 1 1 1 1 1 1 1 1 1 1 1 0 1 0 0 0 0 0",
        " CONVECTION ON   1.25 TURBULENCE OFF  0.00  0.00  0.00  0.00",
        f"ABUNDANCE SCALE   {scale:.5f} ABUNDANCE CHANGE 1 0.92040 2 0.07834",
        *(" ABUNDANCE CHANGE " + " ".join(listed[i:i + 6]) for i in range(0, len(listed), 6)),
        f"READ DECK6 {len(model.rhox)} RHOX,T,P,XNE,ABROSS,ACCRAD,VTURB, FLXCNV,VCONV,VELSND",
        *(f" {m:.8E} {t:8.1f} {p:.3E} {e:.3E} {k:.3E} 8.419E-02 2.000E+05 0.000E+00 0.000E+00"
          for m, t, p, e, k in zip(*(getattr(model, n) for n in COLUMNS), strict=True)),
        "PRADK 1.4597E+00", "BEGIN                    ITERATION  15 COMPLETED",
    ]
    return "\n".join(lines) + "\n"


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of models of eight stars: a box in teff, logg and [M/H]."""
    for teff in (5500.0, 6000.0):
        for logg in (4.0, 4.5):
            for m_h in (-0.5, 0.0):
                written(tmp_path / "models" / f"p{teff:.0f}g{logg}m{m_h}.mod",
                        marcs(star(teff, logg, m_h), m_h=m_h))
    return tmp_path / "models"


def same(one: Atmosphere, other: Atmosphere, rtol: float) -> None:
    assert (one.teff, one.logg) == (other.teff, other.logg)
    for name in COLUMNS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=rtol,
                                   err_msg=name)


def test_marcs_is_read_into_our_units(tmp_path: Path) -> None:
    sun = star(5777.0, 4.44)
    model = read_model(written(tmp_path / "sun.mod", marcs(sun, m_h=-0.25, alpha_m=0.1)))
    same(model.atmosphere, sun, rtol=1e-4)
    assert model.node == (5777.0, 4.44, -0.25, 0.1)
    assert "MARCS" in model.citation


def test_what_leaves_at_the_top_of_marcs_is_no_mass(tmp_path: Path) -> None:
    giant = star(4500.0, 1.0)
    model = read_model(written(tmp_path / "giant.mod", marcs(giant)))
    # With it the top layer would have ten times the mass above.
    assert giant.rhox[0] < 0.1 * PRAD_ABOVE / 10.0**giant.logg
    np.testing.assert_allclose(np.log10(model.atmosphere.optical_depth),
                               np.log10(giant.optical_depth), atol=2e-3)


def test_a_spherical_model_is_plane_parallel_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    giant = star(4500.0, 1.5)
    path = written(tmp_path / "giant.mod", marcs(giant, radius=2.0e13))
    with caplog.at_level(logging.WARNING):
        same(read_models(path)(4500.0, 1.5), giant, rtol=1e-3)
    assert "1 of 1 models" in caplog.text
    assert "spherical, and used as plane-parallel" in caplog.text


@pytest.mark.parametrize(("kind", "node"), [
    ({}, (0.0, 0.0)),
    ({"title": "[-0.5a]", "scale": 10**-0.5, "alpha_m": 0.4}, (-0.5, 0.4)),
    ({"title": "[-3.5]", "scale": 10**-3.5}, (-3.5, 0.0)),          # 0.00032: too few digits
    ({"title": "[-5.5]", "scale": 10**-5.5}, (-5.5, 0.0)),          # 0.00000
    ({"title": "[0.0]", "scale": 0.1}, (-1.0, 0.0)),                # a title that was not changed
    ({"title": "[-1.0]", "iron": -5.54}, (-1.0, 0.0)),              # ATLAS12 lists what there is
    ({"title": "ATLAS12", "scale": 10**-0.25, "alpha_m": 0.25}, (-0.25, 0.25)),
])
def test_atlas_is_read_with_its_composition(
    tmp_path: Path, kind: dict[str, Any], node: tuple[float, float]
) -> None:
    sun = star(5777.0, 4.44)
    model = read_model(written(tmp_path / "sun.krz", atlas(sun, **kind)))
    same(model.atmosphere, sun, rtol=6e-4)
    assert model.node == (5777.0, 4.44, *node)
    assert "ATLAS" in model.citation


def test_a_composition_that_contradicts_itself_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"-2.00 by the iron it lists, but \+0.00 by ABUNDANCE"):
        read_model(written(tmp_path / "a.krz", atlas(star(5777.0, 4.44), iron=-6.54)))


def test_a_gzipped_model_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "sun.mod.gz").write_bytes(gzip.compress(marcs(star(5777.0, 4.44)).encode()))
    same(read_models(tmp_path)(5777.0, 4.44), star(5777.0, 4.44), rtol=1e-4)


@pytest.mark.parametrize("star_of", [(5772.0, 4.44, 0.0), (4500.0, 2.0, -1.0),
                                     (6500.0, 4.0, -2.0), (7000.0, 2.7, 0.0)])
def test_the_models_that_ship_pass_the_check(star_of: tuple[float, float, float]) -> None:
    C3K()(*star_of).check()


@pytest.mark.parametrize(("change", "said"), [
    ({"pressure": 0.1}, r"not in hydrostatic equilibrium at log g = 4.44: where log optical"),
    ({"rhox": 10.0}, "not in hydrostatic equilibrium"),
    ({"temperature": 1.2}, r"its temperature at optical depth 2/3 is \d+ K, but its Teff 5777 K"),
    ({"opacity": 10.0}, "its temperature at optical depth 2/3"),
    ({"electron_density": 0.0}, "its electron_density in layer 1 is 0, which must be positive"),
    ({"opacity": np.nan}, "its opacity in layer 1 is nan, which must be positive"),
])
def test_what_is_no_star_fails_the_check(change: dict[str, float], said: str) -> None:
    sun = star(5777.0, 4.44)
    sun.check()
    wrong = replace(sun, **{n: factor * getattr(sun, n) for n, factor in change.items()})
    with pytest.raises(ValueError, match=said):
        wrong.check()
    turned = replace(sun, **{n: getattr(sun, n)[::-1] for n in COLUMNS})
    with pytest.raises(ValueError, match="its rhox does not rise"):
        turned.check()


@pytest.mark.parametrize(("old", "new", "said"), [
    ("  5777.      Teff", "  5000.      Teff", "its temperature at optical depth 2/3"),
    (" 2.7542E+04 Surface", " 2.7542E+03 Surface", "not in hydrostatic equilibrium"),
    ("Surface gravity", "Gravity", "no 'surface gravity' in its head"),
    ("Pe          Pg  ", "Pg          Pe  ", "hydrostatic equilibrium"),
    ("0.0000E+00\n", "\n", "layer 1 of .* is not whole"),
    ("KappaRoss", "Kappa", "its layers have no KappaRoss"),
    (" k lgTauR    Kappa", " j lgTauR    Kappa", "its layers have no KappaRoss, RHOX"),
    ("Model structure", "Structure", r"neither a .mod of MARCS nor a READ DECK6 deck of ATLAS"),
])
def test_a_broken_file_of_marcs_is_named_with_the_reason(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    text = marcs(star(5777.0, 4.44))
    assert old in text
    path = written(tmp_path / "sun.mod", text.replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"sun.mod' is no model atmosphere.*{said}"):
        read_models(path)


@pytest.mark.parametrize(("change", "said"), [
    (lambda t: "\n".join(t.splitlines()[:40]), "it promises"),
    (lambda t: t + t, "it has 2 decks under a TEFF"),
    (lambda t: t.replace(",ABROSS", ""), "its deck lists RHOX, T, P, XNE, ACCRAD, not RHOX"),
    (lambda t: t.replace("TEFF", "TEF"), "under no TEFF and GRAVITY"),
    (lambda t: "MARCS 35\nT EFF= 5777. GRAV= 4.4  MODEL TYPE= 0 WLSTD= 5000\n", "no opacities"),
])
def test_a_broken_deck_of_atlas_is_named_with_the_reason(
    tmp_path: Path, change: Any, said: str
) -> None:
    path = written(tmp_path / "sun.krz", change(atlas(star(5777.0, 4.44))))
    with pytest.raises(ValueError, match=rf"sun.krz' is no model atmosphere.*{said}"):
        read_models(path)


def test_a_folder_gives_back_its_nodes(folder: Path) -> None:
    models = read_models(folder)
    assert isinstance(models, ModelFolder)
    assert models.low.tolist() == [5500.0, 4.0, -0.5, 0.0]
    assert models.high.tolist() == [6000.0, 4.5, 0.0, 0.0]
    there = read_model(folder / "p6000g4.5m-0.5.mod").atmosphere
    same(models(6000.0, 4.5, -0.5), there, rtol=0.0)


def test_between_nodes_a_folder_gives_what_lies_between(folder: Path) -> None:
    models = read_models(folder)
    at = np.arange(-4.0, 1.0, 0.25)

    def temperature(model: Atmosphere) -> NDArray[np.float64]:
        return np.interp(at, np.log10(model.optical_depth), model.temperature)

    ends = [temperature(models(t, 4.0, -0.5)) for t in (5500.0, 6000.0)]
    for share in (0.25, 0.5):
        middle = temperature(models(5500.0 + 500.0 * share, 4.0, -0.5))
        assert (middle > ends[0]).all()
        assert (middle < ends[1]).all()
    inside = models(5750.0, 4.25, -0.25)
    inside.check()
    assert (inside.teff, inside.logg) == (5750.0, 4.25)
    # The fits to C3K themselves, which know nothing of these corners.
    np.testing.assert_allclose(temperature(inside), temperature(star(5750.0, 4.25, -0.25)),
                               rtol=0.01)
    close = models(5500.01, 4.0, -0.5)
    np.testing.assert_allclose(temperature(close), ends[0], rtol=1e-4)


def test_one_more_model_leaves_a_grid_whole(folder: Path) -> None:
    before = read_models(folder)(5750.0, 4.25, -0.25)
    written(folder / "sun.krz", atlas(star(5777.0, 4.44)))
    models = read_models(folder)
    assert isinstance(models, ModelFolder)
    same(models(5750.0, 4.25, -0.25), before, rtol=0.0)
    same(models(5777.0, 4.44), star(5777.0, 4.44), rtol=6e-4)
    assert models.citation.count(";") == 1  # both are cited


def test_stars_beyond_the_nodes_are_refused_with_their_range(folder: Path) -> None:
    models = read_models(folder)
    with pytest.raises(ValueError, match="teff = 6500, but the models run from 5500 to 6000"):
        models(6500.0, 4.25)
    with pytest.raises(ValueError, match=r"alpha_m = 0\.4, but the models run from 0 to 0"):
        models(5750.0, 4.25, 0.0, 0.4)
    (folder / "p6000g4.0m0.0.mod").unlink()
    models = read_models(folder)
    with pytest.raises(ValueError, match=r"has no model of teff = 6000, logg = 4, m_h = 0, "
                       r"alpha_m = 0 beside it, though it runs from teff = 5500"):
        models(5750.0, 4.25, -0.25)
    models(5750.0, 4.25, -0.5)  # the other face is whole


def test_one_file_answers_for_its_star_alone(tmp_path: Path) -> None:
    models = read_models(written(tmp_path / "sun.mod", marcs(star(5777.0, 4.44))))
    models(5777.2, 4.44)  # 4.4400 to the digits of a gravity
    with pytest.raises(ValueError, match="teff = 5800, but the models run from 5777 to 5777"):
        models(5800.0, 4.44)


def test_two_models_of_one_star_or_none_at_all_are_an_error(folder: Path, tmp_path: Path) -> None:
    written(folder / "z.mod", marcs(star(6000.0, 4.5)))
    with pytest.raises(ValueError, match=r"two models of teff = 6000.*one of them 'z.mod'"):
        read_models(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no models of atmospheres \(.mod, .krz"):
        read_models(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="no atmospheres at"):
        read_models(tmp_path / "absent")


def test_where_metals_decide_alpha_it_is_not_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for m_h, alpha_m in ((-0.5, 0.2), (0.0, 0.0)):
        written(tmp_path / f"{m_h}.mod", marcs(star(5777.0, 4.44, m_h, alpha_m), m_h=m_h,
                                               alpha_m=alpha_m))
    with caplog.at_level(logging.WARNING):
        models = read_models(tmp_path)
    assert "[alpha/M] follows [M/H]" in caplog.text
    assert models.names == ("teff", "logg", "m_h")
    same(models(5777.0, 4.44, -0.25, 0.4), models(5777.0, 4.44, -0.25), rtol=0.0)


def test_our_own_file_is_c3k(tmp_path: Path) -> None:
    assert isinstance(read_models(shipped_folder("atmospheres") / "c3k.h5"), C3K)


class TestSme:
    """Grids of PySME's own."""

    @pytest.fixture
    def grid(self, tmp_path: Path) -> Path:
        """Return a grid of eight models in the file that PySME keeps of one."""
        pytest.importorskip("pysme", reason="needs the extra [synthesis]")
        from pysme.atmosphere.atmosphere import AtmosphereGrid

        nodes = [(t, g, m) for t in (5500.0, 6000.0) for g in (4.0, 4.5) for m in (-0.5, 0.0)]
        count = min(len(star(*node).rhox) for node in nodes)
        grid = AtmosphereGrid(len(nodes), count)
        columns = {"rhox": "rhox", "tau": "optical_depth", "temp": "temperature", "rho": "density",
                   "xne": "electron_density", "xna": "particle_density"}
        for name in grid.dtype.names:
            grid[name][:] = 1 if name in ("radius", "opflag") else 0
        for i, node in enumerate(nodes):
            for name, value in zip(("teff", "logg", "monh"), node, strict=True):
                grid[name][i] = value
            for name, ours in columns.items():
                grid[name][i] = getattr(star(*node), ours)[:count]
        grid.source = "marcs-small"
        grid.save(tmp_path / "marcs-small.npz")
        return tmp_path / "marcs-small.npz"

    def test_it_gives_its_nodes_and_what_lies_between(self, grid: Path) -> None:
        models = read_models(grid)
        assert isinstance(models, SmeGrid)
        assert models.low.tolist() == [5500.0, 4.0, -0.5]
        assert "MARCS" in models.citation
        assert "PySME" in models.citation
        at = np.arange(-4.0, 0.6, 0.25)
        for node in ((6000.0, 4.0, -0.5), (5750.0, 4.25, -0.25)):
            model, same_star = models(*node), star(*node)
            model.check()
            for name in COLUMNS:
                here, there = (np.interp(at, np.log10(m.optical_depth), getattr(m, name))
                               for m in (model, same_star))
                np.testing.assert_allclose(here, there, err_msg=name,
                                           rtol=0.01 if name == "temperature" else 0.1)

    def test_beyond_it_stars_are_refused(self, grid: Path) -> None:
        with pytest.raises(ValueError, match="teff = 6500, but the models run from 5500 to 6000"):
            read_models(grid)(6500.0, 4.2)

    def test_it_reaches_other_processes(self, grid: Path) -> None:
        models = read_models(grid)
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            there = pool.submit(models, 5700.0, 4.2, -0.2).result()
        same(there, models(5700.0, 4.2, -0.2), rtol=1e-12)

    def test_something_else_is_no_grid(self, tmp_path: Path) -> None:
        pytest.importorskip("pysme", reason="needs the extra [synthesis]")
        with pytest.raises(ValueError, match=r"some.sav' is no grid of SME's"):
            read_models(written(tmp_path / "some.sav", "not IDL's"))


def test_a_recipe_may_name_a_folder_and_tells_when_it_changes(
    folder: Path, small: dict[str, Any]
) -> None:
    small["atmosphere"] = {"models": "models", "m_h": "fe_h"}

    def fingerprint() -> str:
        return GridRecipe.from_dict(small, beside=folder.parent).fingerprint

    first = fingerprint()
    assert fingerprint() == first
    path = folder / "p6000g4.5m0.0.mod"
    text = path.read_text()
    written(path, text.replace("20080521", "20080522"))
    assert fingerprint() != first
    path.rename(folder / "other.mod")
    written(folder / "other.mod", text)
    assert fingerprint() != first


def test_a_grid_is_made_from_a_folder_of_models(folder: Path, small: dict[str, Any]) -> None:
    pytest.importorskip("pysme", reason="needs the extra [synthesis]")
    from emulators.synthesis.synthesize import prepare

    small["atmosphere"] = {"models": "models", "m_h": "fe_h"}
    small["labels"].update(teff={"uniform": [5500, 6000]}, logg={"uniform": [4.0, 4.5]},
                           fe_h={"uniform": [-0.5, 0.0]})
    maker = prepare(GridRecipe.from_dict(small, beside=folder.parent))
    made = maker(np.array([3]))
    assert made.failed_reason.tolist() == []
    assert made.flux.shape[0] == 1
