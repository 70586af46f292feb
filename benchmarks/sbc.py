"""Simulation-based calibration: are posteriors right as often as they say?

``python -m benchmarks.sbc``: truths are drawn from the prior, spectra of them are made by an
emulator with rotation, velocity, a continuum and noise, and the posterior is sampled: the rank of
a truth among independent samples is then uniform (Talts et al. 2018, arXiv:1804.06788).  A test of
samplers needs a fast emulator, not a good one: it is a Cannon that has learnt spectra of the
shipped one (`quick_emulator`).  Jitter and outliers are left out: there are none.

With ``--grid GRID`` spectra are those of the reference grid's validation stars, from the synthesis
code, fitted with the shipped emulator, whose error is part of the noise: that tests the emulator
and what is known of its errors, as far as the grid's stars are spread like the prior, uniform in
the domain.  With ``--wrong 0.7`` the noise is said to be smaller than it is: the test must fail.

Stars that are in the results already, by the same code, are not sampled again.  Writes
``benchmarks/results/sbc-NAME.json``: ranks, their chi-square, the largest distance of their
cumulative distribution from uniform, how far truths lie from the middle of their posteriors,
coverage of the 68 % and 95 % intervals.  ``--plot FILE`` draws what has been written.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from pathlib import Path
from typing import Any

import click
import h5py
import numpy as np
import torch
from scipy.stats import binom, chi2, kstwo, norm
from tqdm import tqdm

import emulators
import stellarfit
from emulators.labels import is_abundance
from stellarfit.arm import Arm
from stellarfit.forward import ForwardModel
from stellarfit.instrument import Instrument
from stellarfit.parameters import make_parameters

RESULTS = Path(__file__).parent / "results"
#: the prior: uniform in this box
PRIOR = {"teff": (5000.0, 6500.0), "logg": (3.5, 5.0), "vmic": (0.8, 2.0), "fe_h": (-0.8, 0.4),
         "mg_fe": (-0.2, 0.4), "ca_fe": (-0.2, 0.4), "ti_fe": (-0.2, 0.4), "cr_fe": (-0.2, 0.2),
         "rv": (-10.0, 10.0), "vsini": (2.0, 20.0)}
#: of stars of the grid, which are where it has them
STAGES = ("rv", "vsini")
RESOLUTION, PER_FWHM = 20_000.0, 2.5
WINDOW = (5160.0, 5200.0)
#: signal to noise of a pixel, uniform in the logarithm
SNR = 50.0, 250.0
#: independent samples that a truth is ranked among, and bins of their histogram
RANKED, BINS = 39, 20
#: Angstrom, around the pixels: as far as the quick emulator reaches beyond
MARGIN = 3.0
#: spectra that the quick emulator learns
LEARNT = 600
#: files of the samplers, in stellarfit/posterior
SAMPLED_BY = {"emcee": "ensembles", "nuts": "nuts", "importance": "importance"}
QUICK = Path("out") / "sbc-cannon"
PIXELS = np.exp(np.arange(*np.log(WINDOW), 1.0 / (PER_FWHM * RESOLUTION)))


def quick_emulator() -> emulators.Emulator:
    """Return a Cannon of the labels of the prior, made at first use."""
    if not (QUICK / "emulator.json").exists():
        teacher = emulators.load("mgb-fgk")
        labels = [n[:-2] + "h" if n.endswith("_fe") else n for n in PRIOR if n not in STAGES]
        middle = [0.5 * (a + b) for a, b in zip(teacher.labels.low, teacher.labels.high,
                                                strict=True)]
        rng = np.random.default_rng(0)
        box = {n: rng.uniform(low - 0.05 * (high - low), high + 0.05 * (high - low), LEARNT)
               for n, (low, high) in PRIOR.items()}
        values = {n: box[n] if n in box else box[n[:-1] + "fe"] + box["fe_h"] for n in labels}
        every = np.array([[float(values[n][k]) if n in values
                           else float(box["fe_h"][k]) if is_abundance(n) else fallback
                           for n, fallback in zip(teacher.labels.names, middle, strict=True)]
                          for k in range(LEARNT)])
        print(f"{LEARNT} spectra for the quick emulator in '{QUICK}'")
        QUICK.parent.mkdir(exist_ok=True)
        grid = QUICK.with_suffix(".h5")
        low, high = np.searchsorted(teacher.pixels, [WINDOW[0] - MARGIN, WINDOW[1] + MARGIN])
        pixels = torch.as_tensor(teacher.pixels[low:high])
        with h5py.File(grid, "w") as file, torch.no_grad():
            file["flux"] = teacher.flux(torch.as_tensor(every), pixels).numpy()
            file["wavelength"] = pixels.numpy()
            file["wavelength"].attrs["medium"] = teacher.medium
            file["labels"] = np.array([values[n] for n in labels]).T
            file["labels"].attrs["names"] = labels
            file["split"] = np.where(np.arange(LEARNT) % 10 == 0, 1, 0).astype(np.uint8)
        emulators.train(grid, network="cannon", name="sbc-cannon", progress=False).save(QUICK)
    return emulators.load(QUICK)


def telescope(
    emulator: emulators.Emulator, fixed: dict[str, float], **stages: float
) -> ForwardModel:
    """Return what observes a star of known velocity and rotation."""
    parameters = make_parameters(
        emulator.labels, emulator.domain, free=[n for n in PRIOR if n not in STAGES],
        fixed={**fixed, **stages}, resolution=RESOLUTION)
    return ForwardModel(emulator, parameters, [Arm(PIXELS, Instrument("mock", RESOLUTION))],
                        rv_range=(stages["rv"], stages["rv"]))


def star_of_grid(path: str, k: int) -> tuple[
    emulators.Emulator, dict[str, float], dict[str, float], float, torch.Tensor,
    np.random.Generator,
]:
    """Return validation star k of a grid.

    That is: the shipped emulator, without what it knows of this star, the truth, the other
    labels, signal to noise, flux (n_pix,) at the training pixels, and a source of noise.
    """
    rng, truth, snr = drawn(k)
    emulator = emulators.load("mgb-fgk")
    grid = emulators.Grid(path)
    rows = grid.rows("validation")
    known = dict(zip(grid.label_set.names, grid.labels[rows[k]].tolist(), strict=True))
    if emulator.errors is not None:
        emulator.errors = emulator.errors.without(k)
    ratios = {n[:-1] + "fe": v - known["fe_h"] for n, v in known.items()
              if is_abundance(n) and n != "fe_h"}
    everything = {**ratios, **{n: v for n, v in known.items()
                               if n == "fe_h" or not is_abundance(n)}}
    truth = {n: everything.pop(n, truth[n]) for n in PRIOR}
    rest = torch.as_tensor(grid.flux(rows[k:k + 1])[0])
    return emulator, truth, everything, snr, rest, rng


def drawn(k: int) -> tuple[np.random.Generator, dict[str, float], float]:
    """Return a source of noise, a truth from the prior, and a signal to noise."""
    rng = np.random.default_rng([7, k])
    truth = {n: float(rng.uniform(*limits)) for n, limits in PRIOR.items()}
    return rng, truth, float(np.exp(rng.uniform(*np.log(SNR))))


def one(task: tuple[int, str, float, str, str]) -> dict[str, Any]:
    """Make star k, sample its posterior, rank its truth."""
    k, path, wrong, sampler, version = task
    torch.set_num_threads(1)
    fixed: dict[str, float] = {}
    if path:
        emulator, truth, fixed, snr, rest, rng = star_of_grid(path, k)
        model = telescope(emulator, fixed, **{n: truth[n] for n in STAGES})
        flux = model.through(rest[None, model.pixels],
                             torch.zeros(len(PRIOR) - 2, dtype=torch.float64))[0]
        priors = {n: "uniform:{}:{}".format(*PRIOR[n]) for n in STAGES}
    else:
        rng, truth, snr = drawn(k)
        emulator = quick_emulator()
        model = telescope(emulator, {}, **{n: truth[n] for n in STAGES})
        theta = torch.tensor([[truth[n] for n in model.parameters.names]], dtype=torch.float64)
        flux = model.flux(theta)[0]
        priors = {n: "uniform:{}:{}".format(*limits) for n, limits in PRIOR.items()}
    x = np.linspace(-1.0, 1.0, len(PIXELS))
    continuum = np.exp(rng.normal(0.0, 0.3) + rng.normal(0.0, 0.1) * x)
    sigma = continuum / snr
    spectrum = stellarfit.Spectrum(
        PIXELS, continuum * flux.double().numpy() + sigma * rng.standard_normal(len(PIXELS)),
        medium=emulator.medium, ivar=(wrong * sigma) ** -2)
    posterior = stellarfit.sample(
        spectrum, sampler=sampler, resolution=RESOLUTION, emulator=emulator, free=list(PRIOR),
        fixed=fixed, priors=priors, continuum=2, jitter=False, robust=False,
        emulator_error=bool(path), seed=k, progress=False)
    chosen = rng.permutation(len(posterior.samples))[:RANKED]
    ranks = {n: int((posterior.of(n)[chosen] < truth[n]).sum()) for n in PRIOR}
    inside = {n: [bool(low <= truth[n] <= high) for low, _, high in (
        posterior.interval(n, level) for level in (0.68, 0.95))] for n in PRIOR}
    return {"star": k, "by": version, "snr": snr, "ranks": ranks, "inside": inside,
            "converged": posterior.converged, "ess": float(posterior.diagnosis.ess.min())}


def code(path: str | None, sampler: str) -> str:
    """Return which emulator and code sample; the other samplers do not count."""
    digest = hashlib.sha256()
    folder = Path(stellarfit.__file__).parent
    others = {f"{file}.py" for name, file in SAMPLED_BY.items() if name != sampler}
    for file in [Path(__file__), *sorted([*folder.glob("*.py"), *folder.glob("posterior/*.py")])]:
        if file.name not in others:
            digest.update(file.read_bytes())
    emulator = emulators.load("mgb-fgk") if path else quick_emulator()
    return f"{emulator.identity} {digest.hexdigest()[:8]}"


def places(stars: list[dict[str, Any]], name: str) -> np.ndarray[Any, Any]:
    """Return where truths lie in their posteriors, (n_star,): uniform in 0-1 if all is well."""
    within = [np.random.default_rng([1, s["star"]]).uniform() for s in stars]
    return np.array([s["ranks"][name] for s in stars] + np.array(within)) / (RANKED + 1)


def judge(stars: list[dict[str, Any]]) -> dict[str, Any]:
    """Return, per parameter, how uniform ranks are and how often intervals hold the truth."""
    found, count = {}, len(stars)
    for name in PRIOR:
        place = np.sort(places(stars, name))
        seen = np.histogram(place, bins=BINS, range=(0.0, 1.0))[0]
        square = float(((seen - count / BINS) ** 2 / (count / BINS)).sum())
        steps = np.arange(count + 1) / count
        distance = float(max((steps[1:] - place).max(), (place - steps[:-1]).max()))
        # (2 place - 1)^2 has mean 1/3 and variance 4/45: errors wrong by s move it most
        spread = float(((2.0 * place - 1.0) ** 2).mean() - 1.0 / 3.0) / np.sqrt(4.0 / 45.0 / count)
        held = np.array([s["inside"][name] for s in stars]).mean(0)
        found[name] = {
            "chi2_p": float(chi2.sf(square, BINS - 1)),
            "ecdf_p": float(kstwo.sf(distance, count)), "ecdf_distance": distance,
            "width_sigma": float(spread), "width_p": float(2.0 * norm.sf(abs(spread))),
            "coverage_68": float(held[0]), "coverage_95": float(held[1]),
        }
    return found


def verdict(stars: list[dict[str, Any]]) -> dict[str, Any]:
    """Return bands that hold 99 % of calibrated samplers' coverage, and what falls outside.

    Ten parameters are judged by three tests of their ranks and two of coverage: for a chance of at
    most one in a hundred for all together, each has one in five thousand.
    """
    count, least = len(stars), 0.01 / (5 * len(PRIOR))
    bands = {f"{level:.0%}": [float(x) / count for x in binom.interval(1 - least, count, level)]
             for level in (0.68, 0.95)}
    judged = judge(stars)
    worst = [n for n, m in judged.items() if min(
        m["chi2_p"], m["ecdf_p"], m["width_p"]) < least]
    outside = [n for n, m in judged.items() if not (
        bands["68%"][0] <= m["coverage_68"] <= bands["68%"][1]
        and bands["95%"][0] <= m["coverage_95"] <= bands["95%"][1])]
    return {"bands": bands, "ranks_not_uniform": worst, "coverage_outside": outside,
            "calibrated": not worst and not outside}


@click.command(help=__doc__)
@click.option("--stars", default=1000, show_default=True)
@click.option("--workers", default=2, show_default=True)
@click.option("--sampler", default="emcee", show_default=True)
@click.option("--grid", type=click.Path(exists=True, dir_okay=False), default=None)
@click.option("--wrong", default=1.0, show_default=True, help="Noise is said to be so many times.")
@click.option("--plot", "picture", type=click.Path(dir_okay=False), default=None)
def main(
    stars: int, workers: int, sampler: str, grid: str | None, wrong: float, picture: str | None
) -> None:
    """Sample what is not sampled yet, then count."""
    if picture:
        draw(Path(picture))
        return
    name = f"{sampler}-{'grid' if grid else 'emulator'}" + (f"-{wrong:g}" if wrong != 1 else "")
    path, version = RESULTS / f"sbc-{name}.json", code(grid, sampler)
    if grid:
        stars = min(stars, len(emulators.Grid(grid).rows("validation")))
    done = json.loads(path.read_text())["stars"] if path.exists() else []
    done = [s for s in done if s["by"] == version][:stars]
    known = {s["star"] for s in done}
    tasks = [(k, grid or "", wrong, sampler, version) for k in range(stars) if k not in known]
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for i, star in enumerate(tqdm(pool.imap_unordered(one, tasks), total=len(tasks),
                                      unit="star")):
            done.append(star)
            if i % 20 == 19 or i == len(tasks) - 1:
                write(path, done)
    judged, found = judge(done), verdict(done)
    print(f"{name}: {len(done)} stars, {sum(s['converged'] for s in done)} converged; "
          f"{'calibrated' if found['calibrated'] else 'NOT calibrated'}")
    print("99 % of calibrated samplers cover "
          + ", ".join(f"{k} in {low:.3f}-{high:.3f}" for k, (low, high) in found["bands"].items()))
    print(f"{'':8} {'chi2 p':>8} {'ecdf p':>8} {'width':>8} {'68 %':>7} {'95 %':>7}")
    for parameter, m in judged.items():
        print(f"{parameter:8} {m['chi2_p']:8.4f} {m['ecdf_p']:8.4f} "
              f"{m['width_sigma']:+7.1f}σ "
              f"{100 * m['coverage_68']:6.1f}% {100 * m['coverage_95']:6.1f}%")


def write(path: Path, done: list[dict[str, Any]]) -> None:
    """Write stars and what they say, a star per line."""
    head = {"count": len(done), "converged": sum(s["converged"] for s in done),
            "verdict": verdict(done), "judged": judge(done)}
    rows = ",\n  ".join(json.dumps(s) for s in sorted(done, key=lambda s: s["star"]))
    path.write_text(json.dumps(head, indent=1)[:-2] + f',\n "stars": [\n  {rows}\n ]\n}}\n')


def draw(path: Path) -> None:
    """Draw the share of truths below each level of their posteriors; and that less the level."""
    from matplotlib.figure import Figure

    files = sorted(RESULTS.glob("sbc-*.json"))
    figure = Figure(figsize=(3.6 * len(files), 6.0), layout="constrained")
    panels = figure.subplots(2, len(files), sharex=True, sharey="row", squeeze=False,
                             height_ratios=[3, 2])
    level = np.linspace(0.0, 1.0, 201)
    for (top, bottom), file in zip(panels.T, files, strict=True):
        found = json.loads(file.read_text())
        count = found["count"]
        widest = kstwo.isf(0.01 / len(PRIOR), count)
        top.fill_between(level, level - widest, level + widest, color="0.88")
        bottom.axhspan(-widest, widest, color="0.88", label="99 % of all, if calibrated")
        for k, name in enumerate(PRIOR):
            share = np.searchsorted(np.sort(places(found["stars"], name)), level) / count
            top.plot(level, share, lw=0.9, color=f"C{k}")
            bottom.plot(level, share - level, lw=0.9, color=f"C{k}", label=name)
        top.set_title(f"{file.stem[4:]}: {count} stars", fontsize=9)
        top.set_ylim(0.0, 1.0)
        bottom.set_xlabel("level of the posterior")
        bottom.margins(x=0)
    panels[0, 0].set_ylabel("share of truths below the level")
    panels[1, 0].set_ylabel("that, less the level")
    figure.legend(*panels[1, 0].get_legend_handles_labels(), fontsize=7, ncol=3 * len(files),
                  loc="outside lower center")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
