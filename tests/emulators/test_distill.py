"""A student knows what its teacher knows, at a survey's pixels and resolution."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter1d

from emulators import Recipe, distill, lessons, load, measure_errors, train
from emulators.cli import main
from emulators.drawing import uniform
from emulators.labels import Domain, LabelSet
from emulators.lessons import View
from emulators.networks import build
from emulators.networks.components import SHARE, Components

FAST = {"options": {"hidden": 64, "layers": 2, "components": 24}, "progress": False, "steps": 400,
        "batch": 64, "validate_every": 100, "checkpoint_every": 100, "warmup": 20,
        "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def teacher(grid_path, tmp_path_factory):
    """A Cannon of the small grid, with its errors: smooth, and fast to ask."""
    from emulators import Grid

    grid = Grid(grid_path)
    emulator = train(grid, network="cannon", progress=False)
    emulator.errors = measure_errors(emulator, grid)
    emulator.save(folder := tmp_path_factory.mktemp("teacher"))
    return load(folder)


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    monkeypatch.setattr(lessons, "BLOCK", 64)


@pytest.fixture(scope="module")
def student(teacher, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lessons, "BLOCK", 64)
        return distill(teacher, out=tmp_path_factory.mktemp("student"), spectra=1024, **FAST)


def test_labels_are_drawn_evenly_from_a_domain() -> None:
    """Against rejection from the box, where a corner is cut and one label never varies."""
    labels = LabelSet(("teff", "logg", "he_frac", "fe_h", "mg_h"), ("K", "dex", "", "dex", "dex"),
                      (4000.0, 0.0, 0.08, -2.0, -2.4), (7000.0, 5.0, 0.08, 0.0, 0.4))
    box = Domain.box(labels.low, labels.high)
    tied = np.array([[0.0, 0, 0, -1, 1], [0, 0, 0, 1, -1], [1e-3, -1, 0, 0, 0]])
    domain = Domain(np.vstack([box.A, tied]), np.append(box.b, [0.4, 0.4, 4.0]))
    rng = np.random.default_rng(1)
    drawn = uniform(domain, labels, 4000, rng)
    assert domain.contains(drawn).all()
    thrown = rng.uniform(labels.low, labels.high, size=(60_000, 5))
    thrown = thrown[domain.contains(thrown)]
    for values, expected in zip(drawn.T, thrown.T, strict=True):
        at = np.quantile(expected, [0.1, 0.3, 0.5, 0.7, 0.9])
        if np.ptp(expected) > 0:
            share = (values[:, None] < at).mean(0)
            np.testing.assert_allclose(share, [0.1, 0.3, 0.5, 0.7, 0.9], atol=0.035)
    assert np.corrcoef(drawn[:, 3], drawn[:, 4])[0, 1] == pytest.approx(
        np.corrcoef(thrown[:, 3], thrown[:, 4])[0, 1], abs=0.03)


def test_a_domain_without_room_or_end_is_refused() -> None:
    labels = LabelSet(("teff", "logg"), ("K", "dex"), (4000.0, 0.0), (7000.0, 5.0))
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="empty"):
        uniform(Domain(np.array([[1.0, 0], [-1, 0]]), np.array([1.0, -2])), labels, 3, rng)
    with pytest.raises(ValueError, match="no end"):
        uniform(Domain(np.eye(2), np.ones(2)), labels, 3, rng)


def test_principal_components_leave_what_they_cannot_span() -> None:
    rng = np.random.default_rng(0)
    wavelength = 5160.0 * torch.exp(1e-5 * torch.arange(40, dtype=torch.float64))
    labels = torch.as_tensor(rng.standard_normal((300, 4)))
    flux = 1.0 - labels @ torch.as_tensor(rng.standard_normal((4, 40)))
    labels = labels[:, :3]
    network = build("components", 3, wavelength, components=4)
    assert network.begin(labels, flux) == pytest.approx(0.0, abs=1e-6)
    fewer = build("components", 3, wavelength, components=3)
    left = fewer.begin(labels, flux)
    depth = (1.0 - flux - (1.0 - flux).mean(0)).numpy()
    assert left == pytest.approx(np.linalg.svd(depth)[1][3] / np.sqrt(300 * 40), rel=1e-6)
    weight = network.decoder.weight.detach().double().numpy()
    known = depth @ np.linalg.pinv(weight).T
    np.testing.assert_allclose(known.std(0), 1.0, rtol=1e-4)


def test_there_are_no_more_components_than_pixels_unless_asked_for() -> None:
    network = Components(3, torch.linspace(5150.0, 5160.0, 40))
    assert network.config["components"] == 40


def test_labels_enter_by_what_they_do() -> None:
    rng = np.random.default_rng(0)
    wavelength = 5160.0 * torch.exp(1e-5 * torch.arange(40, dtype=torch.float64))
    labels = torch.as_tensor(rng.standard_normal((3000, 3)))
    lines = torch.as_tensor(rng.standard_normal(40))
    network = build("components", 3, wavelength, components=2)
    network.begin(labels, 1.0 - torch.outer(labels @ torch.tensor([1.0, 0.1, 0.0]).double(), lines))
    share = network.share / network.share[0]
    np.testing.assert_allclose(share, [1.0, 0.1**SHARE, 0.0], atol=1e-3)
    some = torch.as_tensor(rng.standard_normal((5, 3))).float()
    before = network.coefficients(some)
    network.relabel(torch.eye(3).double() * 2.0, torch.zeros(3).double())
    torch.testing.assert_close(network.coefficients(0.5 * some), before)


def test_a_student_says_what_its_teacher_says(student, teacher) -> None:
    labels = uniform(teacher.domain, teacher.labels, 200, np.random.default_rng([9, 9]))
    wavelength = torch.as_tensor(teacher.pixels)
    theirs, own = (e.flux(torch.as_tensor(labels), wavelength) for e in (teacher, student))
    error = (own - theirs).abs().mean()
    assert error < 0.05 * (theirs - theirs.mean(0)).abs().mean()
    assert float(error) == pytest.approx(student.metrics["mae"], rel=0.2)
    assert student.labels == teacher.labels
    np.testing.assert_array_equal(student.domain.A, teacher.domain.A)
    assert f"added to {teacher.name}'s" in repr(student)
    known = student.provenance["teacher"]
    assert (known["sha256"], known["added"]) == (teacher.sha256, student.metrics)


def test_what_is_known_of_its_errors_is_against_the_synthesis(student, teacher, grid_path) -> None:
    from emulators import Grid

    grid = Grid(grid_path)
    rows = grid.rows("validation")
    said = student.flux(torch.as_tensor(grid.labels[rows]), torch.as_tensor(student.pixels))
    np.testing.assert_allclose(student.errors.errors, said.numpy() - grid.flux(rows), atol=2e-4)


def test_a_student_is_saved_and_comes_back(student, teacher, tmp_path) -> None:
    again = load(student.save(tmp_path / "again"))
    labels = torch.as_tensor(0.5 * (np.array(teacher.labels.low) + teacher.labels.high))[None]
    wavelength = torch.as_tensor(again.pixels)
    torch.testing.assert_close(again.flux(labels, wavelength), student.flux(labels, wavelength),
                               rtol=0, atol=0)
    weights = sum(p.numel() for p in student.network.parameters())
    (file,) = (tmp_path / "again").glob("weights-*.safetensors")
    assert 2 * weights < file.stat().st_size < 2.5 * weights + 20_000   # 16 bits each
    assert again.provenance["teacher"]["name"] == teacher.name
    torch.testing.assert_close(again.errors.errors, student.errors.errors, atol=2e-5, rtol=0)


def test_a_student_sees_with_the_resolution_of_its_survey(teacher, tmp_path) -> None:
    """Its lessons are the teacher's spectra convolved with a Gaussian, at fewer pixels."""
    student = distill(teacher, out=tmp_path, spectra=64, wavelength=(5164.0, 5174.0),
                      instrument=4000.0, **{**FAST, "steps": 2})
    assert student.resolution == 6000.0
    sigma = 1.0 / (2.0 * np.sqrt(2.0 * np.log(2.0)) * 6000.0) / teacher.log_step
    step = student.log_step / teacher.log_step
    assert step == pytest.approx(round(step))
    assert 1.2 <= sigma / step < 2.4
    assert 5164.0 <= student.pixels[0] < student.pixels[-1] <= 5174.0
    view = View(teacher, 5164.0, 5174.0, 6000.0)
    labels = uniform(teacher.domain, teacher.labels, 3, np.random.default_rng(0))
    sharp = teacher.flux(torch.as_tensor(labels), torch.as_tensor(teacher.pixels)).double().numpy()
    places = np.searchsorted(teacher.pixels, student.pixels * (1 - 1e-9))
    smooth = gaussian_filter1d(sharp, sigma, axis=1, truncate=6.0)[:, places]
    np.testing.assert_allclose(view.spectra(labels), smooth, atol=1e-5)


def test_interrupted_lessons_go_on_as_if_they_had_not_been(teacher, tmp_path, monkeypatch) -> None:
    short = {**FAST, "spectra": 128, "steps": 20}
    whole = distill(teacher, out=tmp_path / "whole", **short)
    made = []
    spectra = View.spectra

    def stops(view, labels):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(1)
        return spectra(view, labels)

    monkeypatch.setattr(View, "spectra", stops)
    with pytest.raises(KeyboardInterrupt):
        distill(teacher, out=tmp_path / "parted", **short)
    monkeypatch.undo()
    monkeypatch.setattr(lessons, "BLOCK", 64)
    with pytest.raises(ValueError, match="already; go on with it"):
        distill(teacher, out=tmp_path / "parted", **short)
    with pytest.raises(ValueError, match="another seed"):
        distill(teacher, out=tmp_path / "parted", resume=True, **{**short, "seed": 1})
    parted = distill(teacher, out=tmp_path / "parted", resume=True, **short)
    for one, other in zip(whole.network.parameters(), parted.network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert not (tmp_path / "parted" / "blocks").exists()


@pytest.mark.parametrize(("wrong", "message"), [
    ({"wavelength": (5000.0, 5170.0)}, r"covers 5160\.0-"),
    ({"wavelength": 5170.0}, "expected its ends"),
    ({"resolution": 90_000.0}, "sample up to"),
    ({"resolution": -1.0}, "expected R"),
    ({"instrument": "harps"}, "expected R"),
    ({"instrument": 4000.0, "resolution": 6000.0}, "not both"),
    ({"spectra": 0}, "whole number"),
    ({"options": {"width": 3}}, "width"),
    ({"options": {"components": 900}}, "at most the 200 pixels, got 900"),
    ({"options": {"layers": 0}}, "layers must be at least 1, got 0"),
    ({"wavelength": (5170.0, 5170.01)}, "fewer than two pixels of 'small' lie between 5170 and"),
    ({"step": 3}, "step"),
])
def test_wrong_wishes_are_refused_before_anything_is_written(
        teacher, tmp_path, wrong, message) -> None:
    with pytest.raises(ValueError, match=message):
        distill(teacher, out=tmp_path / "run", **{"progress": False, "spectra": 64, **wrong})
    assert not (tmp_path / "run").exists()


def test_the_seed_of_a_recipe_is_that_of_the_lessons(teacher, tmp_path) -> None:
    settings = {**FAST, "steps": 2, "spectra": 64}
    distill(teacher, out=tmp_path / "recipe", recipe=Recipe(seed=7), **settings)
    assert json.loads((tmp_path / "recipe" / "lessons.json").read_text())["seed"] == 7
    distill(teacher, out=tmp_path / "both", recipe=Recipe(seed=7), seed=3, **settings)
    assert json.loads((tmp_path / "both" / "lessons.json").read_text())["seed"] == 3


def test_fluxes_that_do_not_fit_are_counted(teacher, tmp_path, monkeypatch, caplog) -> None:
    def spectra(view, labels):
        flux = torch.ones(len(labels), len(view.pixels))
        flux[0, :3] = torch.tensor([1.3, -0.1, -1e-6])
        return flux

    monkeypatch.setattr(View, "spectra", spectra)
    view = View(teacher, *teacher.wavelength_range, None)
    lessons.write_lessons(view, tmp_path, spectra=128, seed=0, resume=False, progress=False)
    assert "6 fluxes of the lessons lie outside 0 to 1.2" in caplog.text


def test_from_the_command_line(teacher, tmp_path) -> None:
    teacher.save(tmp_path / "teacher")
    found = CliRunner().invoke(main, [
        "distill", str(tmp_path / "teacher"), "-o", str(tmp_path / "run"), "--spectra", "64",
        "--wavelength", "5162:5175", "--resolution", "5000", "--set", "steps=5",
        "--option", "components=8"])
    assert found.exit_code == 0, found.output
    assert "cannon" not in found.output
    state = json.loads((tmp_path / "run" / "best" / "emulator.json").read_text())
    assert state["network"] == {"kind": "components", "options": {
        "hidden": 512, "layers": 6, "components": 8}}
    assert load(tmp_path / "run" / "best").resolution == 5000.0
