"""What is told, drawn and kept of samples."""

from __future__ import annotations

import numpy as np
import pytest

from stellarfit import compare, load_posterior
from tests.stellarfit.posterior.chains import draw


def test_the_summary_names_sampler_samples_and_derived_quantities(posterior) -> None:
    text = posterior.summary()
    assert "emcee" in text
    assert "median" in text
    assert repr(posterior) == text
    page = posterior._repr_html_()
    assert ">teff<" in page
    assert posterior.verdict in page
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


def test_a_parameter_that_never_moved_is_drawn_too(posterior, tmp_path) -> None:
    pytest.importorskip("corner")
    from dataclasses import replace

    chain = posterior.chain.copy()
    chain[..., 0] = chain[0, 0, 0, 0]
    assert replace(posterior, chain=chain).corner(tmp_path / "still.png").exists()


def test_no_sample_is_said_and_breaks_nothing(posterior, tmp_path) -> None:
    from dataclasses import replace

    empty = replace(posterior, log_probability=np.full_like(posterior.log_probability, -np.inf))
    assert np.isnan(empty.interval("teff")).all()
    assert "nan" in empty.summary()
    assert empty.trace(tmp_path / "trace.png").exists()
    for refused in (lambda: compare(empty), empty.corner):
        with pytest.raises(ValueError, match="samples"):
            refused()


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


def test_what_the_fit_warns_of_is_said_with_the_samples(star, lines) -> None:
    found = draw(star, lines, sampler="importance", walkers=None, max_steps=256,
                 free=["teff", "fe_h", "ca_fe"], priors={"teff": "uniform:5000:5200"})
    assert found.flags == found.fit.flags != 0
    for words in ("of the fit:", "at a limit: teff", "no information: ca_fe", "flags: "):
        assert words in found.summary()
        assert any(words in note for note in found.to_summary_table().meta["notes"])


def test_samples_know_what_made_them(posterior) -> None:
    known = posterior.fit.provenance
    assert {"stellarfit", "torch", "emcee"} <= known["versions"].keys()
    assert (known["max_steps"], known["walkers"]) == (1500, 12)
    assert known["noise"]["robust"] is True


def test_numbers_are_shown_to_two_figures_of_their_error(lines, observe) -> None:
    from stellarfit.posterior.result import digits_of

    assert [digits_of(0.0, 2 * w) for w in (38.0, 1.2, 0.012, 0.0009, 0.0)] == [0, 1, 3, 5, 3]
