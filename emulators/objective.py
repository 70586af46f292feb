"""What training minimises: a weighted mean squared error of the flux."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from emulators.batches import Batch
from emulators.recipe import Recipe

DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}


class Objective(nn.Module):
    """A batch -> its loss, ``mean(w (1 + emphasis (1 - f)) (emulated - f)^2)``.

    w is the weight of the pixel, 0 where the true flux f is NaN; emission, f > 1, counts like
    continuum.  The mean runs over all pixels, so that the means of equal parts of a batch
    average to the mean of the whole.

    In bf16 the weights are cast once per call and the gradient flows through the cast into
    the float32 weights; autocast would cast them again at every use.  Where the labels enter,
    a network may ask for float32.
    """

    def __init__(self, network: nn.Module, recipe: Recipe) -> None:
        super().__init__()
        self.network, self.emphasis = network, recipe.emphasis
        self._dtype = DTYPES[recipe.precision]
        self._loss = torch.compile(self._loss_of) if recipe.compile else self._loss_of

    def forward(self, batch: Batch) -> Tensor:
        """Return the loss, a scalar."""
        precise: str | None = self.network.float32_part  # type: ignore[assignment]
        parameters = {
            k: v if precise and k.startswith(precise) else v.to(self._dtype)
            for k, v in self.network.named_parameters()
        }
        labels = batch.labels if precise else batch.labels.to(self._dtype)
        return torch.as_tensor(self._loss(
            parameters, labels, batch.wavelength, batch.flux, batch.weight
        ))

    def _loss_of(
        self, parameters: dict[str, Tensor], labels: Tensor, at: Tensor, flux: Tensor,
        weight: Tensor,
    ) -> Tensor:
        emulated: Tensor = torch.func.functional_call(self.network, parameters, (labels, at))
        known = torch.isfinite(flux)
        flux = torch.where(known, flux, 0.0)
        depth = (1.0 - flux).clamp(min=0.0)
        weight = torch.where(known, weight, 0.0) * (1.0 + self.emphasis * depth)
        return (weight * (emulated.float() - flux) ** 2).mean()


def optimisers_of(network: nn.Module, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Return the optimisers of what is to be learnt: AdamW, and Muon for its matrices."""
    learnt = {n: p for n, p in network.named_parameters() if p.requires_grad}
    matrices = set(network.matrices) if recipe.optimiser == "muon" else set()  # type: ignore[arg-type]
    rest = [p for n, p in learnt.items() if n not in matrices]
    chosen = [p for n, p in learnt.items() if n in matrices]
    optimisers: list[torch.optim.Optimizer] = []
    if rest:
        optimisers.append(torch.optim.AdamW(
            rest, lr=recipe.learning_rate, betas=recipe.betas, weight_decay=recipe.weight_decay,
        ))
    if chosen:
        # This scaling gives its updates the root mean square of those of AdamW.
        optimisers.append(torch.optim.Muon(
            chosen, lr=recipe.matrix_rate, weight_decay=recipe.weight_decay,
            adjust_lr_fn="match_rms_adamw",
        ))
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["peak"] = group["lr"]
    return optimisers
