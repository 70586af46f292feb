"""The Cannon: every pixel a quadratic function of the labels, by ridge regression.

Ness et al. 2015 (ApJ 808, 16, eqs. 3-4), with labels l scaled to [-1, 1]:

    depth = theta_0 + sum_i theta_i l_i + sum_{i <= j} theta_ij l_i l_j.

Its makers fit a handful of labels without regularisation.  85 labels make 3740 terms, more
than there may be spectra.  So all terms are kept and a ridge holds them:

    theta = (X^T X + alpha)^-1 X^T y     (columns of X and y with their means taken off),

with alpha chosen for each pixel by generalised cross-validation (Golub, Heath & Wahba 1979,
Technometrics 21, 215, eq. 1.4) from the training spectra alone.  One eigendecomposition of
X^T X serves all pixels and all alphas; X itself is never held, so the number of spectra has
no limit.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emulators.networks.pixels import FixedPixels

#: ridge strengths that are tried, in units of the mean eigenvalue of X^T X
RIDGES = torch.logspace(-8, 3, 45, dtype=torch.float64)
#: beyond this many terms the matrix X^T X would take gigabytes
MOST_TERMS = 12_000


class Cannon(FixedPixels):
    """Scaled labels -> flux at the training pixels.

    Parameters
    ----------
    n_label : int
    wavelength : (n_pix,) tensor
        The training pixels, Angstrom.
    """

    closed_form = True
    matrices: tuple[str, ...] = ()

    def __init__(self, n_label: int, wavelength: Tensor) -> None:
        super().__init__(wavelength)
        self.config: dict[str, int] = {}
        self.register_buffer("first", torch.triu_indices(n_label, n_label)[0], persistent=False)
        self.register_buffer("second", torch.triu_indices(n_label, n_label)[1], persistent=False)
        n_term = n_label + len(self.first)
        if n_term > MOST_TERMS:
            raise ValueError(
                f"{n_label} labels make {n_term} quadratic terms; more than {MOST_TERMS} are "
                f"too many for the Cannon"
            )
        self.theta = nn.Parameter(torch.zeros(n_term, len(wavelength)))
        self.constant = nn.Parameter(torch.zeros(len(wavelength)))

    first: Tensor
    second: Tensor

    def terms(self, labels: Tensor) -> Tensor:
        """Return the labels and their products, (n_spec, n_term)."""
        return torch.cat([labels, labels[:, self.first] * labels[:, self.second]], dim=1)

    def depth(self, labels: Tensor) -> Tensor:
        """Return 1 - flux, (n_spec, n_pix), at all training pixels."""
        return self.constant + self.terms(labels) @ self.theta

    def solver(self) -> Ridge:
        """Return what takes the training spectra and sets the coefficients."""
        return Ridge(self)


class Ridge:
    """The normal equations of a Cannon, added up over its training spectra."""

    def __init__(self, cannon: Cannon) -> None:
        self.cannon = cannon
        n_term, n_pix = cannon.theta.shape
        self.count = 0
        self.x, self.y = torch.zeros(n_term).double(), torch.zeros(n_pix).double()
        self.xx = torch.zeros(n_term, n_term).double()
        self.xy, self.yy = torch.zeros(n_term, n_pix).double(), torch.zeros(n_pix).double()

    def add(self, labels: Tensor, flux: Tensor) -> None:
        """Count scaled labels (n_spec, n_label) and fluxes (n_spec, n_pix).

        Raises
        ------
        ValueError
            For a flux that is not finite: all pixels share one matrix X^T X.
        """
        if not torch.isfinite(flux).all():
            raise ValueError("the Cannon needs fluxes without gaps; some are not finite")
        X, depth = self.cannon.terms(labels.double()), 1.0 - flux.double()
        self.count += len(X)
        self.x += X.sum(0)
        self.y += depth.sum(0)
        self.xx += X.T @ X
        self.xy += X.T @ depth
        self.yy += (depth**2).sum(0)

    def solve(self) -> float:
        """Set the coefficients of the Cannon; return the mean squared error of the fit."""
        n = self.count
        x, y = self.x / n, self.y / n
        eigenvalues, Q = torch.linalg.eigh(self.xx - n * torch.outer(x, x))
        s = eigenvalues.clamp(min=0.0).unsqueeze(1)
        z = Q.T @ (self.xy - n * torch.outer(x, y))
        # With a = alpha / (s + alpha), the sum of squared residuals is sum a^2 z^2 / s plus
        # what no term can give, and n less the degrees of freedom is sum a plus what is left
        # over.  Differences of large numbers would drown both where terms outnumber spectra.
        given = s > 1e-12 * s.max()
        power = torch.where(given, z**2 / s, 0.0)
        spare = max(n - 1 - int(given.sum()), 0)
        beyond = (self.yy - n * y**2 - power.sum(0)).clamp(min=0.0) * (spare > 0)
        best = torch.full_like(y, torch.inf)
        alpha, residual = torch.ones_like(y), torch.zeros_like(y)
        for ridge in RIDGES * s.mean():
            a = ridge / (s + ridge)
            square = (a**2 * power).sum(0) + beyond
            score = square / (spare + torch.where(given, a, 0.0).sum()) ** 2
            better = score < best
            best = torch.where(better, score, best)
            alpha = torch.where(better, ridge, alpha)
            residual = torch.where(better, square, residual)
        theta = Q @ (z / (s + alpha))
        with torch.no_grad():
            self.cannon.theta.copy_(theta)
            self.cannon.constant.copy_(y - x @ theta)
        return float(residual.mean() / n)
