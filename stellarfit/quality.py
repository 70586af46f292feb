"""Flags: what a user should know before believing a fit.

A 64-bit integer, 0 when all is well.  Bits are only ever appended.
"""

from __future__ import annotations

from enum import IntFlag


class Flag(IntFlag):
    """The flag bits of a fit."""

    EDGE_OF_DOMAIN = 1 << 0
    NOT_CONVERGED = 1 << 1
    LITTLE_COVERAGE = 1 << 2
    POOR_FIT = 1 << 3
    MODEL_LIMITED = 1 << 4
    NOISE_ESTIMATED = 1 << 5
    BEYOND_TRAINING_SAMPLING = 1 << 6
    UNCONSTRAINED = 1 << 7
    LOW_SNR = 1 << 8
    PRIOR_RANGE_OF_RV = 1 << 9
    MEDIUM_OVERRULED = 1 << 10
    AMBIGUOUS_RV = 1 << 11
    ARM_LEFT_OUT = 1 << 12
    MANY_MASKED = 1 << 13
    UPPER_LIMIT = 1 << 14
    NO_INFORMATION = 1 << 15
    MANY_OUTLIERS = 1 << 16
    LARGE_JITTER = 1 << 17
    PRIOR_TENSION = 1 << 18
    STAGE_AT_LIMIT = 1 << 19
    EMULATOR_LIMITED = 1 << 20
    NO_FIT = 1 << 21


MEANINGS = {
    Flag.EDGE_OF_DOMAIN:
        "a label stands at the edge of the emulator's domain, or of a uniform prior",
    Flag.NOT_CONVERGED: "the optimiser stopped before it converged",
    Flag.LITTLE_COVERAGE: "fewer than half of the emulator's range was usable",
    Flag.POOR_FIT: "the model does not resemble the spectrum",
    Flag.MODEL_LIMITED: "residuals exceed the noise and the emulator's error",
    Flag.NOISE_ESTIMATED: "no errors were given; the noise was estimated from the spectrum",
    Flag.BEYOND_TRAINING_SAMPLING:
        "the resolution is finer than the emulator's training pixels sample",
    Flag.UNCONSTRAINED: "the spectrum says nothing about a free parameter",
    Flag.LOW_SNR: "median signal-to-noise per pixel below 10",
    Flag.PRIOR_RANGE_OF_RV: "the velocity stands at the edge of the range around its first guess",
    Flag.AMBIGUOUS_RV: "another velocity explains the spectrum almost as well",
    Flag.ARM_LEFT_OUT: "an arm could not be used",
    Flag.MANY_MASKED: "more than a fifth of the pixels in the emulator's range are masked",
    Flag.UPPER_LIMIT: "an abundance is an upper limit",
    Flag.NO_INFORMATION: "the spectrum hardly narrows what was known of an abundance",
    Flag.MANY_OUTLIERS: "one pixel in twenty or more looks like an outlier",
    Flag.LARGE_JITTER: "the jitter exceeds the given noise",
    Flag.PRIOR_TENSION: "the fit lies 3 sigma or more from a prior",
    Flag.STAGE_AT_LIMIT: "a resolution or broadening stands at the end of its range",
    Flag.EMULATOR_LIMITED: "the emulator's error is the larger part of a label's",
    Flag.NO_FIT: "there is no fit: the status of the catalogue's row says why",
    Flag.MEDIUM_OVERRULED: "the medium given contradicts the file's; rv may be off by 80 km/s",
}


def describe(flags: int) -> list[str]:
    """Return the set flags in words."""
    return [MEANINGS[f] for f in Flag if flags & f]


def names_of(flags: int) -> list[str]:
    """Return the names of the set flags."""
    return [str(f.name) for f in Flag if flags & f]
