"""One star's trouble is its own, and every star has an outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stellarfit
from stellarfit import Spectrum
from stellarfit.survey import engine as engine_module
from stellarfit.survey.engine import Engine, Failure, Status
from tests.stellarfit.survey.conftest import SETTINGS


@pytest.fixture(scope="module")
def engine(cannon: Path) -> Engine:
    return Engine(emulator=cannon, **SETTINGS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_stars_have_the_labels_that_they_have_here(
    engine: Engine, cannon: Path, stars: tuple[list[Any], dict[str, Any]]
) -> None:
    there = Engine(emulator=cannon, device="cuda", **SETTINGS)
    assert there.emulator.device.type == "cuda"
    for one, other in zip(outcomes(engine, stars[0]), outcomes(there, stars[0]), strict=True):
        errors = np.array([one.errors[n] for n in one.names])
        assert (np.abs(one.values - other.values) < 0.05 * errors).all()


def test_a_device_that_is_not_here_is_refused(cannon: Path) -> None:
    with pytest.raises(ValueError, match="device 'cuda:77' cannot be used here"):
        Engine(emulator=cannon, device="cuda:77", **SETTINGS)


def outcomes(engine: Engine, stars: list[Any]) -> list[Any]:
    return engine([lambda s=s: s() if callable(s) else s for s in stars])


def raising(error: Exception) -> Any:
    def read() -> None:
        raise error

    return read


def changed(star: Spectrum, **arrays: Any) -> Spectrum:
    return Spectrum(**{"wavelength": star.wavelength, "flux": star.flux, "ivar": star.ivar,
                       "medium": star.medium, "name": star.name, **arrays})


def test_every_kind_of_broken_star_gets_its_status_and_the_others_their_labels(
    engine: Engine, stars: tuple[list[Any], dict[str, Any]]
) -> None:
    good = stars[0][:6]
    cosmic = good[0].flux.copy()
    cosmic[::7] = 1e30
    broken = {
        "missing": raising(FileNotFoundError("no spectrum at 'x'")),
        "unreadable": raising(ValueError("the file is empty")),
        "bug": raising(ZeroDivisionError()),
        "elsewhere": changed(good[0], wavelength=good[0].wavelength + 3000.0),
        "short": changed(good[0], wavelength=good[0].wavelength[:8], flux=good[0].flux[:8],
                         ivar=good[0].ivar[:8]),
        "nonsense": {"not": "a spectrum"},
    }
    found = outcomes(engine, [good[0], *broken.values(), *good[1:],
                              changed(good[0], flux=cosmic)])
    failures = dict(zip(broken, found[1:7], strict=True))
    assert all(isinstance(f, Failure) for f in failures.values())
    assert {n: f.status for n, f in failures.items()} == {
        "missing": Status.MISSING, "unreadable": Status.UNREADABLE, "bug": Status.UNREADABLE,
        "elsewhere": Status.UNUSABLE, "short": Status.UNUSABLE, "nonsense": Status.UNUSABLE}
    assert failures["unreadable"].message == "the file is empty"
    assert "nothing to fit" in failures["elsewhere"].message
    for result, k in zip([found[0], *found[7:12]], range(6), strict=True):
        assert result.converged
        assert abs(result.labels["teff"] - stars[1]["teff"][k]) < 6.0 * result.errors["teff"]
    assert isinstance(found[12], Failure) or found[12].flags


def test_too_few_pixels_are_said_of_their_star_and_cost_the_others_nothing(
    cannon: Path, stars: tuple[list[Any], dict[str, Any]]
) -> None:
    fixed = {"logg": 4.4, "vmic": 1.0, "vsini": 0.0, "rv": 0.0}
    engine = Engine(emulator=cannon, **{**SETTINGS, "free": ["teff", "fe_h"], "fixed": fixed})
    good = stars[0][0]
    # at the edge of the emulator, beyond which most of what they see lies
    wavelength = good.wavelength * (engine.emulator.wavelength_range[0] / good.wavelength[0])
    edge = np.where(np.arange(len(wavelength)) < 25, good.ivar, 0.0)
    found = outcomes(engine, [changed(good, wavelength=wavelength), *(
        changed(good, wavelength=wavelength, ivar=edge, name=n) for n in "ab")])
    assert not isinstance(found[0], Failure)
    for failure, name in zip(found[1:], "ab", strict=True):
        assert (failure.status, failure.name) == (Status.UNUSABLE, name)
        assert f"usable pixels of '{name}' fall on" in failure.message


def test_a_batch_that_fails_is_halved_until_the_culprit_is_alone(
    engine: Engine, stars: tuple[list[Any], dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    conclude = engine_module.conclude

    def failing(problem: Any, *rest: Any) -> Any:
        if any(s.observation.spectra[0].flux[0] == stars[0][3].flux[0] for s in problem.stars):
            raise np.linalg.LinAlgError("singular")
        return conclude(problem, *rest)

    monkeypatch.setattr(engine_module, "conclude", failing)
    found = outcomes(engine, stars[0][:8])
    assert [isinstance(f, Failure) for f in found] == [k == 3 for k in range(8)]
    assert found[3] == Failure(Status.FAILED, "singular", "mock")


def test_stars_on_other_pixels_do_not_mix(
    engine: Engine, stars: tuple[list[Any], dict[str, Any]], observe: Any
) -> None:
    other = observe(engine.emulator, {"teff": 5800.0, "logg": 4.4, "fe_h": 0.0, "mg_fe": 0.0,
                                      "vmic": 1.2, "rv": 0.0},
                    wavelength=np.linspace(5165.0, 5195.0, 500), snr=100.0)
    found = outcomes(engine, [stars[0][0], other, stars[0][1], other, stars[0][2]])
    assert [len(f.used) for f in found[1::2]] == [500, 500]
    together = outcomes(engine, stars[0][:3])
    assert [f.labels for f in found[::2]] == [f.labels for f in together]


def test_a_batch_fits_what_single_fits_do(
    engine: Engine, cannon: Path, stars: tuple[list[Any], dict[str, Any]]
) -> None:
    for star, result in zip(stars[0][:4], outcomes(engine, stars[0][:4]), strict=True):
        alone = stellarfit.fit(star, emulator=cannon, **SETTINGS)
        for name in alone.names:
            assert result.labels[name] == pytest.approx(
                alone.labels[name], abs=0.05 * alone.errors[name])


def test_a_star_alone_is_fitted_as_one_of_many(
    engine: Engine, stars: tuple[list[Any], dict[str, Any]]
) -> None:
    alone, together = outcomes(engine, stars[0][:1])[0], outcomes(engine, stars[0][:5])[0]
    assert alone.provenance["runner_up"] == pytest.approx(together.provenance["runner_up"])
    for name in alone.names:
        assert alone.labels[name] == pytest.approx(together.labels[name],
                                                   abs=0.01 * alone.errors[name])


def test_a_machine_short_of_memory_is_no_fault_of_a_star(engine: Engine) -> None:
    with pytest.raises(MemoryError):
        outcomes(engine, [raising(MemoryError())])


def test_a_calibration_that_is_not_there_is_said_at_once(cannon: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no calibration at"):
        Engine(emulator=cannon, calibration="nope.h5", **SETTINGS)


def test_spectra_sharper_than_the_emulator_are_refused_before_any_is_read() -> None:
    student = "mgb-fgk-r20k"  # of R = 30,000
    with pytest.raises(ValueError, match=r"trained on spectra of R = 30000.*R = 60000"):
        Engine(emulator=student, resolution=60_000)
    with pytest.raises(ValueError, match=r"cannot show what an instrument of R = 115000"):
        Engine(emulator=student, instrument="harps")
    Engine(emulator=student, resolution={"b": 15_000, "r": 60_000})  # r may lie elsewhere
    Engine(emulator=student, resolution=60_000, fixed={"resolution": 15_000})


def test_names_may_be_given_as_one_text(cannon: Path) -> None:
    text = Engine(emulator=cannon, **{**SETTINGS, "free": "teff, logg,fe_h,mg_fe,rv"})
    assert text.parameters.names == tuple(SETTINGS["free"])


@pytest.mark.parametrize(("wrong", "said"), [
    ({"free": ["teff", "rv", "vanadium"]}, "unknown parameter"),
    ({"method": "guess"}, "unknown method"), ({"batch": 0}, "at least 1 star"),
    ({"instrument": "harsp", "resolution": None}, "unknown instrument"),
    ({"instrument": "harps"}, "got both instrument= and resolution="),
    ({"resolution": [20_000.0, "fine"]}, "expected a number"),
    ({"continuum": "splne:20"}, "continuum"), ({"correlation": 2.0}, "correlation"),
    ({"priors": {"teff": "uniform:9000:9999"}}, "leave no point"),
])
def test_settings_that_fit_no_star_are_refused_at_once(
    cannon: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Engine(emulator=cannon, **{**SETTINGS, **wrong})
