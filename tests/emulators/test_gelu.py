"""The activation without gradients is that of torch, and its slope the derivative."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from emulators.networks.gelu import gelu, gelu_and_slope


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.float64, 1e-14)])
def test_it_is_torchs_own_to_rounding_far_out_as_well(dtype, within) -> None:
    x = torch.cat([torch.linspace(-8, 8, 1001), torch.tensor([-1e3, -30.0, 30.0, 1e3])]).to(dtype)
    before, expected = x.clone(), F.gelu(x, approximate="tanh")
    with torch.no_grad():
        found = gelu(x)
    torch.testing.assert_close(found, expected, rtol=within, atol=within)
    torch.testing.assert_close(gelu(x), expected, rtol=0, atol=0)  # with gradients: the very same
    assert torch.equal(x, before)
    y = x.clone().requires_grad_()
    slope, = torch.autograd.grad(F.gelu(y, approximate="tanh").sum(), y)
    value, own = gelu_and_slope(x)
    torch.testing.assert_close(value, expected, rtol=within, atol=within)
    torch.testing.assert_close(own, slope, rtol=within, atol=2 * within)
