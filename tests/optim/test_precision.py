"""Low and mixed precision."""

import pytest
import torch
from torch import nn

from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA


def parameter(gradient, dtype=torch.float32):
    """Zeros with this gradient."""
    weight = nn.Parameter(torch.zeros(len(gradient), dtype=dtype))
    weight.grad = torch.tensor(gradient, dtype=dtype)
    return weight


def test_half_precision_gradients_have_norms_in_float32():
    """Squares of 300 overflow float16; the norm is 300 * sqrt(100)."""
    weight = parameter([300.0] * 100, torch.float16)
    NSGDA([weight], lr=1.0).step()
    torch.testing.assert_close(weight.data, torch.full((100,), -0.1, dtype=torch.float16), rtol=1e-3, atol=0.0)


@pytest.mark.parametrize("kind", [AdaNSGDA, AdaDir])
@pytest.mark.parametrize("oracle", ["adam", "paper"])
def test_the_oracle_is_made_in_float32(kind, oracle):
    """eps = 1e-8 is 0 in float16."""
    weights = [parameter([1e-2, 0.0], dtype) for dtype in (torch.float32, torch.float16)]
    for weight in weights:
        kind([weight], lr=0.1, oracle=oracle).step()
    # The square of the gradient, 1e-7 in the moment, is a subnormal number of float16 with few digits.
    torch.testing.assert_close(weights[1].float(), weights[0], rtol=0.2, atol=0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_gradients_whose_square_vanishes(eps):
    """The first entry must not blow the update up: its part of A is bounded by that of any other entry, 1."""
    weight = parameter([1e-24, 1e-3])
    AdaNSGDA([weight], lr=0.1, betas=(0.0, 0.999), eps=eps).step()
    assert weight.norm().item() == pytest.approx(0.1, rel=1e-4)


@pytest.mark.parametrize(
    "dtypes", [(torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float64)]
)
def test_one_norm_over_several_dtypes(dtypes):
    weights = [parameter([g], dtype) for g, dtype in zip((3.0, 4.0), dtypes, strict=True)]
    NSGDA(weights, lr=1.0).step()
    assert [w.item() for w in weights] == pytest.approx([-0.6, -0.8], rel=1e-2)
