"""An emulator: a trained network with the names, limits and history that make it usable."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import jvp, vmap

from emulators.error_model import ErrorModel
from emulators.files import remove_others, write_json, write_tensors
from emulators.labels import Domain, LabelSet
from emulators.lora import merged
from emulators.networks import kind_of
from emulators.networks.tangents import flux_and_tangents as transformer_tangents
from emulators.networks.transformer import Transformer
from emulators.notebook import several, shown

FORMAT = "stellarfit-emulator"
FORMAT_VERSION = 1
OUTSIDE = ("raise", "warn", "flag")


class DomainWarning(UserWarning):
    """An emulator was asked outside the domain it was trained on.

    Silence it with ``warnings.simplefilter("ignore", emulators.DomainWarning)``, or pass
    ``outside="flag"`` and look at the flags.
    """


class Emulator:
    """Labels -> normalised flux at any wavelength of its range.

    Parameters
    ----------
    network : nn.Module
        One of `emulators.networks`.
    labels : LabelSet
    domain : Domain
    pixels : (n_pix,) float64
        Training pixels, Angstrom.
    medium : str
        ``air`` or ``vacuum``.
    name : str
    provenance, metrics : dict
        How it was trained; how well it reproduces held-out spectra.

    Attributes
    ----------
    errors : ErrorModel or None
        How far it is from the synthesis, where that has been measured.
    card : dict
        What :func:`emulators.card` found out about it, where it was asked.
    sha256 : str
        Hash of the file of weights, of an emulator loaded from adapters that of their hash and
        their base's; empty until saved or loaded.

    Examples
    --------
    >>> import emulators
    >>> emu = emulators.load("mgb-fgk")                             # doctest: +SKIP
    >>> flux = emu({"teff": 5772, "logg": 4.44, "vmic": 1.0, "fe_h": 0.0},
    ...            np.linspace(5160, 5190, 1000))                   # doctest: +SKIP
    """

    def __init__(
        self, network: nn.Module, labels: LabelSet, domain: Domain,
        pixels: NDArray[np.float64], medium: str, *, name: str = "emulator",
        provenance: dict[str, Any] | None = None, metrics: dict[str, float] | None = None,
    ) -> None:
        self.network = network.eval()
        self.labels, self.domain, self.medium = labels, domain, medium
        self.pixels = np.asarray(pixels, dtype=np.float64)
        self.name = name
        self.provenance = provenance or {}
        self.metrics = metrics or {}
        self.errors: ErrorModel | None = None
        self.card: dict[str, Any] = {}
        self.sha256 = ""

    @property
    def wavelength_range(self) -> tuple[float, float]:
        """First and last wavelength it may be asked for, Angstrom."""
        return float(self.pixels[0]), float(self.pixels[-1])

    @property
    def log_step(self) -> float:
        """Median spacing of the training pixels in ln(wavelength)."""
        return float(np.median(np.diff(np.log(self.pixels))))

    @property
    def resolution(self) -> float | None:
        """R = wavelength / FWHM that its training spectra were convolved to; None if sharp."""
        found = self.provenance.get("trained_on", {}).get("resolution")
        return None if found is None else float(found)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.network.parameters()).dtype

    @property
    def identity(self) -> str:
        """Name and hash of the weights: which emulator gave an answer."""
        return f"{self.name}@{self.sha256[:12] or 'unsaved'}"

    def to(self, *args: Any) -> Emulator:
        """Move the network to a device or its weights to a precision, in place.

        Buffers, such as the periods of the encoding, stay in float64.
        """
        for target in args:
            if isinstance(target, torch.dtype):
                for parameter in self.network.parameters():
                    parameter.data = parameter.data.to(target)
            else:
                self.network.to(target)
        return self

    def freeze(self) -> Emulator:
        """Stop the weights from asking for gradients; labels and wavelengths still may.

        Without it every call would keep the activations of all its pixels for a backward
        pass that nobody wants.
        """
        self.network.requires_grad_(False)
        return self

    def compiled(self) -> Emulator:
        """Return a copy whose spectra are made by code that torch compiles.

        The first call takes some twenty seconds and needs a C++ compiler; the others less time
        than before (`docs/speed.md`).  Fits, whose time goes into derivatives, gain little.  It
        stays where and as precise as it is: move it before.

        Raises
        ------
        ValueError
            For another network than a transformer: their products leave nothing to gain.

        Examples
        --------
        >>> fast = emulators.load("mgb-fgk").compiled()             # doctest: +SKIP
        """
        if not isinstance(self.network, Transformer):
            raise ValueError(f"'{self.name}' is no transformer: there is nothing to gain")
        fast = copy.deepcopy(self)
        fast.network.__dict__.pop("spectrum", None)  # compiled before, for another network
        fast.network.spectrum = torch.compile(fast.network.spectrum)  # type: ignore
        return fast

    @overload
    def __call__(
        self, labels: Tensor | Mapping[str, Any], wavelength: Any, *,
        outside: Literal["raise", "warn"] = "raise",
    ) -> Tensor: ...
    @overload
    def __call__(
        self, labels: Tensor | Mapping[str, Any], wavelength: Any, *, outside: Literal["flag"]
    ) -> tuple[Tensor, Tensor]: ...
    def __call__(
        self, labels: Tensor | Mapping[str, Any], wavelength: Any, *, outside: str = "raise"
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return the normalised flux of stars.

        Parameters
        ----------
        labels : (..., n_label) tensor, or mapping of names to numbers or tensors
            In a mapping, elements that are not mentioned follow ``fe_h`` and ``mg_fe``
            is understood (:meth:`LabelSet.affine`).
        wavelength : (n_pix,) tensor or array
            Angstrom, in the emulator's medium.
        outside : {"raise", "warn", "flag"}
            What to do about labels outside the domain.

        Returns
        -------
        flux : (..., n_pix) tensor
            1 at the continuum; differentiable in the labels, and in the wavelength where the
            network takes or interpolates it.
        inside : (...) bool tensor
            Only with ``outside="flag"``: whether the labels lie in the domain.

        Raises
        ------
        ValueError
            For an unknown label, labels outside the domain (``outside="raise"``), and
            wavelengths outside the range.
        """
        if outside not in OUTSIDE:
            raise ValueError(f"unknown outside={outside!r}; valid: {', '.join(OUTSIDE)}")
        if isinstance(labels, Mapping):
            labels = self._tensor_of(labels)
        labels = torch.as_tensor(labels, device=self.device)
        if labels.shape[-1:] != (len(self.labels),):
            raise ValueError(
                f"labels have shape {tuple(labels.shape)}; '{self.name}' expects "
                f"(..., {len(self.labels)}): {', '.join(self.labels.names[:5])}, ..."
            )
        wavelength = torch.as_tensor(wavelength, dtype=torch.float64, device=self.device)
        self._check_wavelength(wavelength)
        inside = self._check_domain(labels, outside)
        rows = labels.reshape(-1, len(self.labels))
        flux = self.flux(rows, wavelength).reshape(*labels.shape[:-1], len(wavelength))
        return (flux, inside) if outside == "flag" else flux

    def flux(self, labels: Tensor, wavelength: Tensor, *, chunk: int = 1024) -> Tensor:
        """Return flux (n_spec, n_pix) without asking whether labels or wavelengths are allowed.

        This is the bare function, safe under `torch.func` transforms, for callers that
        have checked: labels (n_spec, n_label), wavelength (n_pix,) float64.
        """
        scaled = self.labels.scale(labels.double()).to(self.dtype)
        return torch.as_tensor(self.network.evaluate(scaled, wavelength, chunk=chunk))  # type: ignore[operator]

    def flux_and_tangents(
        self, labels: Tensor, directions: Tensor, wavelength: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return flux and its derivatives along directions of the labels, without gradients.

        Parameters
        ----------
        labels : (n_spec, n_label) float64 tensor
        directions : (n_direction, n_label) float64 tensor
            The same for all stars.
        wavelength : (n_pix,) float64 tensor
            As of :meth:`flux`, which does not ask whether they are allowed.

        Returns
        -------
        flux : (n_spec, n_pix) tensor
        tangents : (n_direction, n_spec, n_pix) tensor
            d flux / d epsilon of ``labels + epsilon * direction``.
        """
        def along(function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
            def one(direction: Tensor) -> Any:
                return jvp(function, (labels,), (direction.expand_as(labels),))

            values, tangents = vmap(one)(directions)
            return values[0], tangents

        with torch.no_grad():
            if not isinstance(self.network, Transformer):
                return along(lambda x: self.flux(x, wavelength))
            scaled, still = (self.labels.scale(x) for x in (labels, torch.zeros_like(labels[:1])))
            ways = self.labels.scale(directions) - still  # scaling is affine
            flux, tangents = transformer_tangents(
                self.network, scaled.to(self.dtype),
                ways.to(self.dtype).expand(len(labels), *ways.shape), wavelength, chunk=8192)
            return flux, tangents.transpose(0, 1)

    def _tensor_of(self, labels: Mapping[str, Any]) -> Tensor:
        matrix, offset = self.labels.affine(list(labels))
        given = [torch.as_tensor(v, dtype=torch.float64, device=self.device)
                 for v in labels.values()]
        try:
            columns = torch.broadcast_tensors(*given)  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            shapes = ", ".join(f"{n} {tuple(v.shape)}" for n, v in zip(labels, given, strict=True))
            raise ValueError(f"labels have shapes {shapes}; expected the same, or numbers"
                             ) from error
        values = torch.stack(columns, dim=-1)
        return values @ values.new_tensor(matrix).T + values.new_tensor(offset)

    def _check_wavelength(self, wavelength: Tensor) -> None:
        low, high = self.wavelength_range
        tolerance = 1e-3 * self.log_step * low
        if wavelength.ndim != 1 or len(wavelength) == 0:
            raise ValueError(f"wavelength must have shape (n_pix,), got {tuple(wavelength.shape)}")
        first, last = (float(end) for end in torch.aminmax(wavelength.detach()))
        if not (first >= low - tolerance and last <= high + tolerance):
            raise ValueError(
                f"wavelengths run {first:.2f}-{last:.2f} Å, but emulator '{self.name}' covers "
                f"{low:.2f}-{high:.2f} Å ({self.medium})"
            )

    def _check_domain(self, labels: Tensor, outside: str) -> Tensor:
        values = labels.detach().cpu().double().numpy()
        if not np.isfinite(values).all():
            bad = np.flatnonzero(~np.isfinite(values.reshape(-1, len(self.labels))).all(axis=0))
            raise ValueError(
                f"{', '.join(self.labels.names[i] for i in bad)} must be finite numbers"
            )
        inside = self.domain.contains(values)
        if outside != "flag" and not inside.all():
            message = (
                f"{np.size(inside) - np.count_nonzero(inside)} of {np.size(inside)} label vectors "
                f"lie outside the domain of '{self.name}': "
                + self.domain.describe_excess(values, self.labels.names)
            )
            if outside == "raise":
                raise ValueError(f"{message}; pass outside='warn' or 'flag' to go on")
            warnings.warn(message, DomainWarning, stacklevel=3)
        return torch.as_tensor(inside)

    def describe(self) -> dict[str, Any]:
        """Return all but the tensors, ready for JSON."""
        return {
            "name": self.name,
            "network": {"kind": kind_of(self.network), "options": self.network.config},
            "labels": self.labels.to_dict(), "domain": self.domain.to_dict(),
            "wavelength": {"low": self.wavelength_range[0], "high": self.wavelength_range[1],
                           "unit": "Angstrom", "medium": self.medium,
                           "n_pixel": len(self.pixels), "log_step": self.log_step},
            "metrics": self.metrics, "provenance": self.provenance, "card": self.card,
        }

    def save(self, folder: str | Path) -> Path:
        """Write the emulator to a folder, each file whole or not at all; return the folder.

        Adapters are written merged into the weights.  The error model has a file of its own:
        measuring it leaves the hash of the weights, to which adapters are bound, as it is.

        Raises
        ------
        ValueError
            When the folder holds adapters, whose tensors would be lost.
        """
        folder, tensors = Path(folder), merged(self.network)
        if (folder / "adapter.json").exists():
            raise ValueError(f"'{folder}' holds adapters, which this would write over: save "
                             f"'{self.name}' in another folder")
        tensors["pixels"] = torch.as_tensor(self.pixels)
        files = {"weights": write_tensors(folder, tensors)}
        if self.errors is not None:
            files["errors"] = write_tensors(folder, self.errors.tensors(), what="errors")
        self.sha256 = files["weights"]["sha256"]
        write_json(folder / "emulator.json", {
            "format": FORMAT, "format_version": FORMAT_VERSION, **files, **self.describe(),
        })
        remove_others(folder, *(f["file"] for f in files.values()))
        return folder

    @property
    def error_in_words(self) -> str:
        """The mean absolute error on validation spectra, of a student beside its teacher's."""
        if "mae" not in self.metrics:
            return "MAE unknown"
        teacher = (self.provenance.get("teacher") or {}).get("name", "")
        return f"MAE {self.metrics['mae']:.4f}" + (f" added to {teacher}'s" if teacher else "")

    def __repr__(self) -> str:
        low, high = self.wavelength_range
        mae = f", {self.error_in_words}" if "mae" in self.metrics else ""
        return (
            f"<Emulator {self.identity}: {kind_of(self.network)}, {low:.1f}-{high:.1f} Å "
            f"{self.medium}, {len(self.labels)} labels{mae}>"
        )

    def _repr_html_(self) -> str:
        low, high = self.wavelength_range
        known = {k: f"{v:.3g}" for k, v in self.metrics.items() if isinstance(v, float)}
        rows = [
            ("network", f"{kind_of(self.network)}, "
                        f"{sum(p.numel() for p in self.network.parameters()):,} weights"),
            ("wavelengths", f"{low:.1f}-{high:.1f} Å, {self.medium}"),
            ("labels", several(self.labels.names)),
            ("errors on validation spectra", ", ".join(f"{k} {v}" for k, v in known.items())),
        ]
        return shown(f"Emulator {self.identity}", [r for r in rows if r[1]])
