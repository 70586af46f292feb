"""Samples agree with the posterior, whichever sampler drew them, and say when not to trust them."""

from __future__ import annotations

import re

import h5py
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_t

import stellarfit
from stellarfit import Spectrum, compare, load_posterior, sample
from stellarfit.fitting import best_of, conclude
from stellarfit.posterior.density import Density
from stellarfit.posterior.importance import Importance
from stellarfit.posterior.proposal import Around
from stellarfit.preparing import prepare

OPTIONS = {"resolution": 20_000, "free": ["teff", "fe_h"],
           "fixed": {"logg": 4.5, "vmic": 1.0, "rv": 0.0, "vsini": 0.0}}
STAR = {"teff": 5300.0, "logg": 4.5, "vmic": 1.0, "fe_h": -0.4}
QUICK = {"progress": False, "walkers": 12}


@pytest.fixture(scope="module")
def star(lines, observe):
    return observe(lines, STAR, snr=30.0, seed=3)


def draw(star, lines, **options):
    return sample(star, emulator=lines, **{**OPTIONS, **QUICK, **options})


@pytest.fixture(scope="module")
def posterior(star, lines):
    return draw(star, lines, max_steps=1500, seed=3)


@pytest.fixture(scope="module")
def density(star, lines):
    problem, solution, gap = best_of(prepare([star], emulator=lines, **OPTIONS))
    return Density(problem, conclude(problem, solution, gap)[0])


@pytest.fixture(scope="module")
def on_a_grid(density):
    """Mean and standard deviation of the posterior by brute force."""
    best, sigma = density.best.values, np.sqrt(np.diag(density.covariance))
    axes = [b + s * np.linspace(-6, 6, 61) for b, s in zip(best, sigma, strict=True)]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2)
    log = density(points)
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    mean = weight @ points
    return mean, np.sqrt(weight @ (points - mean) ** 2)


@pytest.mark.parametrize("sampler", ["emcee", "nuts", "importance"])
def test_every_sampler_has_the_moments_of_a_fine_grid(star, lines, on_a_grid, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    found = draw(star, lines, sampler=sampler, seed=1, max_steps=2500,
                 walkers=12 if sampler == "emcee" else None)
    mean, sigma = on_a_grid
    own = 4.0 / np.sqrt(found.diagnosis.ess)
    assert found.converged, found.verdict
    assert (np.abs(found.samples.mean(0) - mean) < own * sigma).all()
    assert (np.abs(found.samples.std(0) / sigma - 1.0) < own).all()


def test_the_posterior_of_a_good_spectrum_is_that_of_the_fit(posterior) -> None:
    assert posterior.converged
    assert compare(posterior).agree, compare(posterior)


def test_the_summary_names_sampler_samples_and_derived_quantities(posterior) -> None:
    text = posterior.summary()
    assert "emcee" in text
    assert "median" in text
    assert repr(posterior) == text
    assert posterior.derived == {}
    low, median, high = posterior.interval("teff")
    assert low < median < high


def test_abundances_follow_from_each_other_sample_by_sample(star, lines) -> None:
    found = draw(star, lines, sampler="importance", walkers=None, max_steps=256,
                 free=["teff", "fe_h", "mg_fe"])
    np.testing.assert_allclose(found.derived["mg_h"], found.of("mg_fe") + found.of("fe_h"))
    assert found.interval("mg_h")[1] == pytest.approx(np.median(found.derived["mg_h"]))
    with pytest.raises(KeyError, match="'ca_fe' was not sampled"):
        found.of("ca_fe")


def test_without_a_jitter_all_is_told_and_drawn(star, lines, tmp_path) -> None:
    pytest.importorskip("corner")
    found = draw(star, lines, max_steps=20, jitter=False)
    assert "teff" in found.summary()
    assert found.corner(tmp_path / "corner.png").exists()


def test_a_short_chain_is_not_called_converged(star, lines) -> None:
    short = draw(star, lines, max_steps=20)
    assert not short.converged
    assert "needed" in short.verdict


def test_same_seed_gives_the_same_chain_and_another_another(star, lines) -> None:
    one, again, other = (draw(star, lines, max_steps=10, seed=s).chain for s in (5, 5, 6))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("sampler", ["emcee", "nuts", "importance"])
def test_what_was_interrupted_goes_on_as_if_it_had_not_been(
        star, lines, tmp_path, monkeypatch, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    from stellarfit.posterior.sampling import SAMPLERS

    monkeypatch.setattr(SAMPLERS[sampler], "block", 8)
    options = {"sampler": sampler, "walkers": 12 if sampler == "emcee" else None, "seed": 4}
    whole = draw(star, lines, max_steps=24, **options)
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=13, checkpoint=file, **options)
    resumed = draw(star, lines, max_steps=24, checkpoint=file, **options)
    np.testing.assert_array_equal(resumed.samples, whole.samples)


def test_interrupted_draws_that_learn_go_on_as_if_they_had_not_been(density, monkeypatch) -> None:
    monkeypatch.setattr(Importance, "block", 32)
    narrow = Density(density.problem, density.best)
    narrow.__dict__["covariance"] = density.covariance * 0.2  # so that there is much to learn
    whole, parted = Importance(narrow, seed=1), Importance(narrow, seed=1)
    for steps in (32, 32, 32):
        whole.advance(steps, lambda: None)
    for steps in (32, 20, 12, 7, 25):
        parted.advance(steps, lambda: None)
    assert len(whole.state()["counts"]) > 1
    np.testing.assert_array_equal(parted.chain, whole.chain)


def test_chains_of_another_star_or_sampler_are_not_gone_on_with(star, lines, tmp_path) -> None:
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=10, checkpoint=file)
    other = Spectrum(star.wavelength, 1.01 * star.flux, ivar=star.ivar, medium=star.medium)
    with pytest.raises(ValueError, match="holds chains of another data"):
        draw(other, lines, max_steps=10, checkpoint=file)
    with pytest.raises(ValueError, match="holds chains of another seed"):
        draw(star, lines, max_steps=10, checkpoint=file, seed=8)
    with pytest.raises(ValueError, match="holds chains of another priors"):
        draw(star, lines, max_steps=10, checkpoint=file, priors={"teff": "gaussian:5300:50"})
    with pytest.raises(ValueError, match="holds chains of another noise"):
        draw(star, lines, max_steps=10, checkpoint=file, correlation=0.3)
    (tmp_path / "broken.h5").write_bytes(file.read_bytes()[:900])
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        draw(star, lines, max_steps=10, checkpoint=tmp_path / "broken.h5")


def flipped(file):
    """One bit of one stored number, wherever the chain is in the file."""
    with h5py.File(file) as content:
        place = content["chain"].id.get_chunk_info(0).byte_offset + 3
    data = bytearray(file.read_bytes())
    data[place] ^= 4
    file.write_bytes(data)


def edited(name, make):
    def edit(file):
        with h5py.File(file, "r+") as content:
            new = make(content[name][()])
            del content[name]
            if new is not None:
                content[name] = new
    return edit


def unnamed(file):
    with h5py.File(file, "r+") as content:
        content.attrs["identity"] = "{it"


@pytest.mark.parametrize("damage", [
    flipped, unnamed, edited("chain", lambda x: x[:, :5]), edited("chain", lambda x: x[..., :1]),
    edited("chain", lambda x: x * np.nan), edited("chain", lambda x: b"text"),
    edited("state/keys", lambda x: None), edited("state/keys", lambda x: x[:, :7]),
])
def test_a_damaged_checkpoint_is_named_and_not_gone_on_with(star, lines, tmp_path, damage) -> None:
    file = tmp_path / "chains.h5"
    draw(star, lines, max_steps=10, checkpoint=file)
    damage(file)
    with pytest.raises(ValueError, match=r"chains\.h5' is not a readable checkpoint"):
        draw(star, lines, max_steps=20, checkpoint=file)


def test_nothing_outside_the_domain_has_a_probability(density) -> None:
    theta = np.array([density.best.values, [9000.0, 0.0], [np.nan, 0.0]])
    value = density(theta)
    assert np.isfinite(value[0])
    assert np.isneginf(value[1:]).all()


def test_where_the_emulator_has_no_spectrum_there_is_no_probability(density, monkeypatch) -> None:
    evaluate = density.problem.model.evaluate

    def broken(theta):
        flux = evaluate(theta).clone()
        flux[theta[:, 0] > float(density.best.values[0])] = torch.nan
        return flux

    monkeypatch.setattr(density.problem.model, "evaluate", broken)
    value = density(density.best.values + np.array([[5.0, 0.0], [-5.0, 0.0]]))
    assert np.isneginf(value[0])
    assert np.isfinite(value[1])


def test_the_smooth_density_is_the_same_inside_and_falls_off_beyond(density) -> None:
    inside = density.scattered(4, np.random.default_rng(0))
    smooth = np.array([float(density.smooth(torch.as_tensor(t))) for t in inside])
    np.testing.assert_allclose(smooth - smooth[0], density(inside) - density(inside)[0], atol=1e-6)
    beyond = torch.tensor([8000.0, -0.4], dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(density.smooth(beyond), beyond)
    assert slope[0] < 0
    assert torch.isfinite(slope).all()


def test_a_label_at_its_bound_keeps_its_samples_inside(star, lines) -> None:
    found = draw(star, lines, max_steps=1000, priors={"fe_h": "uniform:-2:-0.4"})
    metals = found.of("fe_h")
    assert metals.max() <= -0.4
    assert metals.max() > -0.41
    assert found.converged, found.verdict


def test_a_gradient_sampler_knows_the_limits_of_a_parameter(star, lines) -> None:
    pytest.importorskip("pyro")
    found = draw(star, lines, sampler="nuts", walkers=None, chains=2, max_steps=200,
                 free=["fe_h", "ca_h"], fixed={**OPTIONS["fixed"], "teff": 5300.0},
                 priors={"fe_h": "uniform:-2:-0.4"})
    assert found.diagnosis.divergences == 0
    assert np.isfinite(found.log_probability).all()
    assert -0.41 < found.of("fe_h").max() <= -0.4
    calcium = found.of("ca_h")  # of which the data say nothing: uniform in its domain
    own, sigma = 4.0 / np.sqrt(found.diagnosis.ess.min()), (1.4 + 2.9) / np.sqrt(12.0)
    assert abs(calcium.mean() - 0.5 * (1.4 - 2.9)) < own * sigma
    assert calcium.std() == pytest.approx(sigma, rel=own)


@pytest.fixture(scope="module")
def across(lines, observe):
    """A function that runs chains across a limit of two parameters together."""
    pytest.importorskip("pyro")
    rich = observe(lines, {**STAR, "mg_fe": 0.4}, snr=30.0, seed=3)

    def run(steps):
        return draw(rich, lines, sampler="nuts", walkers=None, max_steps=steps,
                    free=["fe_h", "mg_h"], fixed={**OPTIONS["fixed"], "teff": 5300.0})

    return run


def test_a_gradient_sampler_leaves_out_what_it_passed_beyond_a_limit(across) -> None:
    found = across(50)
    assert np.isneginf(found.log_probability).any()
    assert 20 < len(found.samples) < 100
    assert 0.39 < (found.of("mg_h") - found.of("fe_h")).max() <= 0.4


def test_what_lies_beyond_a_limit_is_in_no_output(across, tmp_path) -> None:
    pytest.importorskip("arviz_base")
    values = across(20).to_arviz()["posterior"]
    assert values["mg_h"].shape[0] == 2
    assert 0 < values["mg_h"].shape[1] < 20
    assert np.asarray(values["mg_h"] - values["fe_h"]).max() <= 0.4


def test_no_sample_is_said_and_breaks_nothing(posterior, tmp_path) -> None:
    from dataclasses import replace

    empty = replace(posterior, log_probability=np.full_like(posterior.log_probability, -np.inf))
    assert np.isnan(empty.interval("teff")).all()
    assert "nan" in empty.summary()
    assert empty.trace(tmp_path / "trace.png").exists()
    for refused in (lambda: compare(empty), empty.corner):
        with pytest.raises(ValueError, match="samples"):
            refused()


def test_a_parameter_without_an_error_leaves_a_covariance_to_draw_from(density) -> None:
    from dataclasses import replace

    # what a pseudo-inverse leaves beside an infinite variance belongs to no covariance
    given = np.array([[1.0, 5.0], [5.0, np.inf]])
    loose = Density(density.problem, replace(density.best, covariance=given))
    assert (np.linalg.eigvalsh(loose.covariance) > 0).all()
    assert np.isfinite(Around(density.best.values, loose.covariance).root).all()


def test_a_parameter_that_the_spectrum_says_nothing_of_fills_its_prior(star, lines) -> None:
    # calcium has no line in these spectra
    found = draw(star, lines, free=["teff", "fe_h", "ca_fe"], max_steps=1500,
                 priors={"ca_fe": "uniform:-0.3:0.3"})
    spread = found.of("ca_fe").std()
    assert spread == pytest.approx(0.6 / np.sqrt(12.0), rel=0.15)


@pytest.mark.parametrize(("options", "message"), [
    ({"walkers": 4, "free": ["teff", "fe_h", "mg_fe"]}, "4 walkers are too few for 3 parameters"),
    ({"sampler": "gibbs"}, "unknown sampler 'gibbs'; valid: emcee, nuts, importance"),
    ({"max_steps": 1}, "max_steps must be a whole number of at least 2"),
    ({"chains": 0}, "chains must be a whole number of at least 1"),
    ({"walkers": 0}, "walkers must be a whole number of at least 4"),
    ({"walkers": 12.5}, "walkers must be a whole number"),
    ({"seed": -1}, "seed must be a whole number"),
    ({"checkpoint": "."}, "is a folder, not a checkpoint"),
    ({"priors": {"teff": "uniform:9000:9500"}}, "leave no point of the emulator's domain"),
    ({"sampler": "importance", "walkers": 8}, "has no walkers"),
    ({"priors": {"teff": "gaussian:9000:1"}, "free": ["fe_h"],
      "fixed": {**OPTIONS["fixed"], "teff": 5300}}, "does not move in this fit"),
])
def test_bad_settings_end_in_a_sentence(star, lines, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        draw(star, lines, **options)


def test_a_posterior_that_is_no_gaussian_is_not_called_one(density) -> None:
    narrow = Density(density.problem, density.best)
    narrow.__dict__["covariance"] = density.covariance * 0.01  # far too sure of itself
    running = Importance(narrow, seed=0)
    running.advance(512, lambda: None)
    found = running.diagnose()
    assert not found.converged
    assert "draws count" in found.verdict


def test_proposals_have_the_density_that_they_claim() -> None:
    covariance = np.array([[4.0, 1.0], [1.0, 2.0]])
    around = Around(np.array([1.0, -2.0]), covariance, freedom=5)
    points = around.draw(20_000, np.random.RandomState(0))
    np.testing.assert_allclose(np.cov(points.T), covariance * 5.0 / 3.0, rtol=0.1)
    expected = multivariate_t([1.0, -2.0], covariance, df=5).logpdf(points[:50])
    np.testing.assert_allclose(around.log_density(points[:50]), expected, rtol=1e-6)


def test_everything_is_saved_and_comes_back(posterior, tmp_path) -> None:
    again = load_posterior(posterior.save(tmp_path / "p.h5"))
    np.testing.assert_array_equal(again.samples, posterior.samples)
    np.testing.assert_array_equal(again.predicted, posterior.predicted)
    assert again.summary() == posterior.summary()
    table = posterior.to_table()
    posterior.save(tmp_path / "p.ecsv")
    assert table["teff"].unit == "K"
    assert len(table) == len(posterior.samples)
    assert {"emulator_sha256", "sampler_seed", "data_sha256", "version"} <= set(table.meta)
    rows = posterior.to_summary_table()
    assert list(rows["parameter"]) == ["teff", "fe_h"]
    (tmp_path / "broken.h5").write_bytes((tmp_path / "p.h5").read_bytes()[:700])
    for broken, kind in ((tmp_path / "broken.h5", ValueError),
                         (tmp_path / "absent.h5", FileNotFoundError)):
        with pytest.raises(kind):
            load_posterior(broken)


def test_arviz_takes_the_samples(posterior, tmp_path) -> None:
    pytest.importorskip("arviz_base")
    tree = posterior.to_arviz()
    values = np.asarray(tree["posterior"]["teff"])
    assert values.size == len(posterior.samples)
    posterior.save(tmp_path / "p.nc")
    assert (tmp_path / "p.nc").stat().st_size > 0


def test_pictures_are_drawn(posterior, tmp_path) -> None:
    pytest.importorskip("corner")
    for name in ("corner", "trace", "plot"):
        path = getattr(posterior, name)(tmp_path / f"{name}.png")
        assert path.stat().st_size > 10_000


def test_comparison_says_what_differs(posterior) -> None:
    from dataclasses import replace

    fit = posterior.fit
    shifted = replace(fit, values=fit.values - np.sqrt(np.diag(fit.covariance)),
                      covariance=0.25 * fit.covariance)
    found = compare(posterior, shifted)
    assert not found.agree
    assert "too low" in found.differences[0].words
    assert re.search(r"its error is (4[5-9]|5[0-5]) % too small", found.differences[0].words)
    with pytest.raises(ValueError, match="nothing to compare"):
        compare(posterior, replace(fit, names=("a", "b")))
    with pytest.raises(ValueError, match="expected a Posterior and a FitResult"):
        compare(posterior, 3)


def test_comparison_with_another_star_is_refused(posterior, lines, observe) -> None:
    other = stellarfit.fit(observe(lines, STAR, snr=30.0, seed=4), emulator=lines, **OPTIONS)
    with pytest.raises(ValueError, match="to other fluxes than"):
        compare(posterior, other)


def test_comparison_of_what_has_not_converged_judges_nothing(star, lines) -> None:
    found = compare(draw(star, lines, max_steps=20))
    assert not found.agree
    assert "agree" not in repr(found)
    assert "no judgement" in repr(found)


def test_comparison_leaves_blank_what_a_fit_does_not_give(posterior) -> None:
    from dataclasses import replace

    blind = replace(posterior.fit, covariance=np.diag([np.inf, 0.01]))
    found = compare(posterior, blind)
    assert np.isnan(found.differences[0].width)
    assert "nan" not in repr(found)
    jittered = replace(posterior, chain=np.concatenate(
        [posterior.chain, posterior.chain[..., :1]], axis=-1), diagnosis=replace(
            posterior.diagnosis, ess=np.append(posterior.diagnosis.ess, 400.0)))
    assert "not free in the fit: jitter" in repr(compare(jittered))


def test_what_the_fit_warns_of_is_said_with_the_samples(star, lines) -> None:
    found = draw(star, lines, sampler="importance", walkers=None, max_steps=256,
                 free=["teff", "fe_h", "ca_fe"], priors={"teff": "uniform:5000:5200"})
    assert found.flags == found.fit.flags != 0
    for words in ("fitted at a limit: teff", "no information: ca_fe", "flags of the fit"):
        assert words in found.summary()
        assert any(words in note for note in found.to_summary_table().meta["notes"])


def test_a_spectrum_that_is_nowhere_finite_is_refused(star, lines, monkeypatch) -> None:
    from stellarfit.posterior import density

    real = density._of_spectra
    monkeypatch.setattr(density, "_of_spectra", lambda *args: real(*args) * torch.nan)
    for sampler in ("emcee", "importance"):
        with pytest.raises(ValueError, match="nowhere finite around the fit"):
            draw(star, lines, sampler=sampler, walkers=None, max_steps=10)


def test_samples_know_what_made_them(posterior) -> None:
    known = posterior.fit.provenance
    assert {"stellarfit", "torch", "emcee"} <= known["versions"].keys()
    assert (known["max_steps"], known["walkers"]) == (1500, 12)
    assert known["noise"]["robust"] is True


def test_numbers_are_shown_to_two_figures_of_their_error(lines, observe) -> None:
    from stellarfit.posterior.result import digits_of

    assert [digits_of(0.0, 2 * w) for w in (38.0, 1.2, 0.012, 0.0009, 0.0)] == [0, 1, 3, 5, 3]


def test_samples_of_the_same_star_come_from_the_package_itself() -> None:
    assert stellarfit.sample is sample


def noisier(lines, observe, jitter):
    """A star whose errors leave out a jitter."""
    seen = observe(lines, STAR, snr=100.0, seed=5)
    extra = np.random.default_rng(6).standard_normal(len(seen)) * jitter * 1200.0
    return Spectrum(seen.wavelength, seen.flux + extra, ivar=seen.ivar, medium=seen.medium)


@pytest.mark.parametrize("sampler", ["emcee", "nuts", "importance"])
def test_a_free_jitter_is_sampled_with_the_labels(lines, observe, sampler) -> None:
    if sampler == "nuts":
        pytest.importorskip("pyro")
    found = draw(noisier(lines, observe, 0.03), lines, free=["teff", "fe_h", "jitter"],
                 sampler=sampler, walkers=12 if sampler == "emcee" else None, max_steps=300,
                 robust=False)
    low, median, high = found.interval("jitter")
    # its error, for n pixels whose noise is s: (s / j) s / sqrt(2 n)
    expected = (0.03**2 + 0.01**2) / 0.03 / np.sqrt(2.0 * len(found.fit.used))
    assert abs(median - 0.03) < 4.0 * expected
    assert 0.5 * (high - low) == pytest.approx(expected, rel=0.25)
    assert found.names == ("teff", "fe_h", "jitter")
    assert "jitter" in found.summary()
    assert found.to_table()["jitter"].unit is None


def test_the_density_with_a_jitter_is_that_of_the_noise_it_makes(density) -> None:
    """Against a determinant and an inverse of the covariance, without and with modes."""
    from dataclasses import replace

    from stellarfit.posterior.jitter import Jitter

    problem, best = density.problem, density.best
    waves = np.random.default_rng(0).standard_normal((len(best.continuum), 3))
    U = torch.as_tensor(0.02 * waves * best.continuum[:, None])
    for noise in (problem.data.noise, problem.data.noise.with_modes([U])):
        loud = replace(problem, data=replace(problem.data, noise=noise))
        jittered = Density(loud, best, jitter=Jitter(loud, best))
        used = loud.used[0]
        values = []
        for jitter in (0.005, 0.02, 0.05):
            variance = loud.data.noise.weight[0].numpy()[used] ** -2 + (
                jitter**2 - best.provenance["jitter"] ** 2) * best.continuum[used] ** 2
            C = np.diag(variance) + (U.numpy()[used] @ U.numpy()[used].T if noise.modes else 0.0)
            model = loud.solve(best.values[None])[0][0]
            S = (model[:, None] * loud.data.terms.numpy())[used]
            r = (problem.stars[0].flux - loud.data.level.numpy() * model)[used]
            inverse = np.linalg.inv(C)
            gram = S.T @ inverse @ S
            rest = r - S @ np.linalg.solve(gram, S.T @ inverse @ r)
            value = -0.5 * (rest @ inverse @ rest + np.linalg.slogdet(C)[1]
                            + np.linalg.slogdet(gram)[1])
            values.append((jittered(np.append(best.values, jitter)[None])[0], value))
        ours, expected = np.array(values).T
        np.testing.assert_allclose(ours - ours[0], expected - expected[0], atol=1e-3)


@pytest.mark.parametrize(("options", "message"), [
    ({"jitter": False}, "needs jitter=True"),
    ({"correlation": 0.3}, "cannot be had together"),
    ({"priors": {"jitter": "gaussian:0.01:0.001"}}, "must be uniform"),
    ({"priors": {"jitter": "uniform:-2:-1"}}, "allows none"),
])
def test_a_jitter_that_cannot_be_sampled_is_refused(star, lines, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        draw(star, lines, **{"free": "teff,fe_h,jitter", **options})
