"""From an observed star to samples of its parameters' posterior."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from stellarfit.conclusion import conclude
from stellarfit.fitting import AT_ONCE, best_of
from stellarfit.observation import as_list
from stellarfit.posterior.checkpoint import checksum, keep, resume
from stellarfit.posterior.density import Density, log_likelihood
from stellarfit.posterior.ensembles import Ensembles
from stellarfit.posterior.importance import Importance
from stellarfit.posterior.jitter import NAME, Jitter
from stellarfit.posterior.nuts import Nuts
from stellarfit.posterior.result import Posterior
from stellarfit.posterior.samplers import Sampler
from stellarfit.posterior.side_by_side import side_by_side
from stellarfit.preparing import in_batches, listed, prepare
from stellarfit.priors import as_prior
from stellarfit.problem import Problem
from stellarfit.result import FitResult
from stellarfit.weighting import Weighting

Array = NDArray[np.float64]
SAMPLERS: Mapping[str, type[Sampler]] = {
    "emcee": Ensembles, "nuts": Nuts, "importance": Importance}
#: packages that samples come from, and of NUTS
PACKAGES = ("stellarfit", "torch", "numpy", "scipy", "emcee")
#: what makes a posterior, of a fit's provenance, besides emulator and data
SETTINGS = ("priors", "fixed", "tied", "continuum", "resolution", "calibration")
#: samples whose spectra are looked at
PREDICTED = 64
#: points around a fit of which one must have a spectrum
LOOKS = 8


def sample(
    spectrum: Any, flux: Any = None, *, sampler: str = "emcee", start: FitResult | None = None,
    max_steps: int = 3000, chains: int = 2, walkers: int | None = None,
    checkpoint: str | Path | None = None, emulator_error: bool = True, jitter: bool = True,
    robust: bool = True, correlation: float = 0.0, seed: int = 0, progress: bool = True,
    **fit_options: Any,
) -> Posterior:
    """Sample the posterior of a star's parameters.

    The star is fitted first: sampling begins there, in the noise as it is there, with the
    continuum marginalised under a flat prior.  It goes on until it has converged
    (`stellarfit.posterior.diagnostics`), or to `max_steps`.

    Parameters
    ----------
    spectrum, flux
        As in :func:`stellarfit.fit`.
    sampler : {"emcee", "nuts", "importance"}
        Ensembles of walkers; Pyro's no-U-turn sampler on the emulator's gradient (extra
        ``[bayes]``); or draws from the Gaussian around the fit, weighted to be exact: fast, where
        the posterior is near it.
    start : FitResult, optional
        Begin the fit here, instead of searching.
    max_steps : int
        Of each chain; of importance sampling the number of draws.
    chains : int
        Independent ensembles, or chains of NUTS.
    walkers : int, optional
        Of each ensemble, at least twice the number of free parameters; a good number by default.
    checkpoint : path, optional
        An HDF5 file that the chains are kept in; when it is there already they go on from it, as
        if they had never stopped.
    emulator_error, jitter, robust, correlation
        As in :func:`stellarfit.fit`; what they come to at the fit stays as it is, but for a
        jitter that is free.
    seed : int
        Every star has random numbers of its own: those of this seed and its data.
    progress : bool
        Show a progress bar.
    **fit_options
        ``instrument``, ``resolution``, ``free``, ... of :func:`stellarfit.fit`, all but
        its ``method``.  With ``jitter`` among the free parameters, it is sampled too, under a
        uniform prior (``priors={"jitter": "uniform:0:0.05"}``).

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError
        As :func:`stellarfit.fit`, for an unknown sampler, too few walkers, and a checkpoint of
        something else.
    ModuleNotFoundError
        For ``sampler="nuts"`` without Pyro.

    Examples
    --------
    >>> posterior = sample("star.fits", instrument="harps")            # doctest: +SKIP
    >>> posterior.converged, posterior.interval("mg_fe")               # doctest: +SKIP
    """
    how = _How(sampler, max_steps, chains, walkers, seed)
    weighting = Weighting(emulator_error, jitter, robust, correlation)
    with threadpool_limits(1, user_api="blas"):  # as in `fit`
        beside, fit_options = _beside(fit_options)
        problem, solution, runner_up = best_of(prepare(
            [spectrum], flux, start=start, seed=seed, weighting=weighting, **fit_options))
        best = conclude(problem, solution, runner_up)[0]
        density = Density(problem, best, jitter=beside(problem, best, 0))
        return _posterior(density, _chains(density, how, checkpoint, progress), how)


def sample_batch(
    spectra: Sequence[Any], *, sampler: str = "emcee", max_steps: int = 3000, chains: int = 2,
    walkers: int | None = None, checkpoints: Sequence[str | Path | None] | None = None,
    emulator_error: bool = True, jitter: bool = True, robust: bool = True,
    correlation: float = 0.0, seed: int = 0, progress: bool = True, **fit_options: Any,
) -> list[Posterior]:
    """Sample the posteriors of stars that share their pixels side by side.

    They are fitted in a batch, and what their samplers ask for is evaluated in one, which pays
    on a device that is not filled by one star.  With ``sampler="importance"`` the Gaussian
    around each fit is weighted to be the posterior.

    Parameters
    ----------
    spectra : sequence
        As in :func:`stellarfit.fit_batch`.
    checkpoints : sequence of path or None, optional
        One per star.
    progress : bool
        Show a progress bar that counts stars.
    sampler, max_steps, chains, walkers, emulator_error, jitter, robust, correlation, seed, \
**fit_options
        As in :func:`sample`, the same for all stars.

    Returns
    -------
    list of Posterior
        In the order of the spectra.

    Raises
    ------
    ValueError
        As :func:`sample`, for spectra on other wavelengths than the first, and a single spectrum.

    Examples
    --------
    >>> posteriors = sample_batch(["a.fits", "b.fits"], instrument="harps",
    ...                           sampler="importance")                # doctest: +SKIP
    """
    how, spectra = _How(sampler, max_steps, chains, walkers, seed), as_list(spectra)
    if checkpoints is not None and len(checkpoints) != len(spectra):
        raise ValueError(f"{len(checkpoints)} checkpoints for {len(spectra)} spectra")
    weighting = Weighting(emulator_error, jitter, robust, correlation)
    found: list[Posterior] = []
    with threadpool_limits(1, user_api="blas"), tqdm(
            total=len(spectra), desc=sampler, unit="star",
            disable=None if progress else True) as bar:
        beside, fit_options = _beside(fit_options)
        for problems in in_batches(spectra, None, at_once=AT_ONCE, seed=seed,
                                   weighting=weighting, **fit_options) if spectra else ():
            problem, solution, runner_up = best_of(problems)
            results = conclude(problem, solution, runner_up)
            first = len(found)
            jitters = {k: j for k, r in enumerate(results) if (j := beside(problem, r, k))}
            kept = (checkpoints or [None] * len(spectra))[first:first + len(results)]

            def run(k: int, likelihood: Callable[[Array], Array] | None) -> Sampler:
                density = Density(problem, results[k], k, jitters.get(k),  # noqa: B023 (this turn's)
                                  likelihood)
                running = _chains(density, how, kept[k], progress=False)  # noqa: B023
                bar.update()
                return running

            if sampler == "nuts":  # whose steps are of one star
                ran = [run(k, None) for k in range(len(results))]
            else:
                ran = side_by_side([partial(run, k) for k in range(len(results))],
                                   partial(log_likelihood, problem, jitters=jitters))
            found += [_posterior(Density(problem, results[k], k, jitters.get(k)), r, how)
                      for k, r in enumerate(ran)]
    return found


def _beside(
    fit_options: dict[str, Any]
) -> tuple[Callable[[Problem, FitResult, int], Jitter | None], dict[str, Any]]:
    """Return what makes the jitter of a star, where it is free, and what is left for the fit."""
    free, priors = fit_options.get("free"), dict(fit_options.get("priors") or {})
    names = listed(free) or []
    if NAME not in names:
        return (lambda problem, best, star: None), fit_options
    prior = as_prior(priors.pop(NAME)) if NAME in priors else None
    left = {**fit_options, "free": [n for n in names if n != NAME], "priors": priors}
    return (lambda problem, best, star: Jitter(problem, best, star, prior)), left


@dataclass(frozen=True)
class _How:
    """How stars are sampled."""

    sampler: str
    max_steps: int
    chains: int
    walkers: int | None
    seed: int

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler {self.sampler!r}; valid: {', '.join(SAMPLERS)}")
        for name, least in (("max_steps", 2), ("chains", 1), ("walkers", 4), ("seed", 0)):
            value = getattr(self, name)
            if value is None and name == "walkers":
                continue
            if not isinstance(value, (int, np.integer)) or value < least:
                raise ValueError(f"{name} must be a whole number of at least {least}, "
                                 f"got {value!r}")


def _chains(
    density: Density, how: _How, checkpoint: str | Path | None, progress: bool
) -> Sampler:
    """Return a star's chains, grown until they have converged or are long enough."""
    best = density.best
    _refuse_nothing(density)
    running = SAMPLERS[how.sampler](density, chains=how.chains, walkers=how.walkers,
                                    seed=_stream(how.seed, best))
    known = ("emulator_sha256", *SETTINGS)
    identity = {"sampler": running.name, "chains": int(how.chains), "walkers": how.walkers and int(
        how.walkers), "seed": int(how.seed), "data": checksum(best), "parameters": list(
            density.names), **{k: best.provenance[k] for k in known},
        "noise": asdict(density.problem.weighting)}
    if checkpoint is not None and Path(checkpoint).exists():
        resume(running, Path(checkpoint), identity)
    _run(running, how.max_steps, checkpoint, identity, progress)
    return running


def _refuse_nothing(density: Density) -> None:
    """Refuse a posterior that is not finite around the fit."""
    around = density.scattered(LOOKS, np.random.default_rng(0))
    if not np.isfinite(density(around)).any():
        raise ValueError(
            f"ln(posterior) of '{density.best.name or 'the spectrum'}' is nowhere finite around "
            f"the fit: emulator {density.best.provenance['emulator']} gives no spectrum there")


def _posterior(density: Density, running: Sampler, how: _How) -> Posterior:
    """Return chains as samples, with the spectra of some."""
    packages = (*PACKAGES, "pyro-ppl") if running.name == "nuts" else PACKAGES
    best = replace(density.best, provenance={
        **density.best.provenance, "sampler": running.name, "sampler_seed": how.seed,
        "data_sha256": checksum(density.best), "steps": running.chain.shape[1],
        "max_steps": how.max_steps, "chains": how.chains, "walkers": running.chain.shape[2],
        "noise": asdict(density.problem.weighting), "versions": {
            package: version(package) for package in packages}})
    found = Posterior(best, running.chain, running.log_probability, running.diagnose(),
                      np.empty((3, 0)))
    return replace(found, predicted=_predicted(density, found.samples, how.seed))


def _predicted(density: Density, samples: Array, seed: int) -> Array:
    """Return the interval (3, n_pix) of the spectra of some samples."""
    some = np.random.default_rng(seed).permutation(len(samples))[:PREDICTED]
    if len(some) == 0:
        return np.full((3, len(density.best.model)), np.nan)
    return np.percentile(density.predicted(samples[some]), [15.87, 50.0, 84.13], axis=0)


def _run(
    running: Sampler, max_steps: int, checkpoint: str | Path | None, identity: Mapping[str, Any],
    progress: bool,
) -> None:
    """Take blocks of steps until the samples are good, or `max_steps`."""
    steps, chains = running.chain.shape[1], running.chain.shape[0]
    if steps and running.diagnose().converged:
        return
    with tqdm(total=max_steps * chains, initial=steps * chains, desc=running.name, unit="step",
              disable=None if progress else True) as bar:
        while running.chain.shape[1] < max_steps:
            taken = running.chain.shape[1]
            steps = running.block - taken % running.block  # blocks begin where they always do
            running.advance(min(steps, max_steps - taken), bar.update)
            if checkpoint is not None:
                keep(running, checkpoint, identity)
            found = running.diagnose()
            if found.converged:
                break
            bar.set_postfix_str(found.reasons[0][:60])


def _stream(seed: int, fit: FitResult) -> int:
    """Return the seed of a star's random numbers: no two stars share theirs."""
    digest = hashlib.sha256(f"{int(seed)} {checksum(fit)}".encode()).digest()
    return int.from_bytes(digest[:4], "big")
