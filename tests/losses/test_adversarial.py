import math

import numpy as np
import pytest
import torch

from pcgan_lightning.losses import (
    AdversarialLoss,
    HingeLoss,
    LeastSquaresLoss,
    NonSaturatingLoss,
    SaturatingLoss,
    WassersteinLoss,
)


def softplus(x):
    """Mean of log(1 + exp(x)) = -log sigmoid(-x), by numpy's own stable formula."""
    return np.logaddexp(0, x).mean()


def cross_entropy(real, fake):
    return softplus(-real) + softplus(fake)


# Discriminator's and generator's loss in numpy, straight from the papers.
FORMULAS = {
    NonSaturatingLoss: (cross_entropy, lambda fake: softplus(-fake)),
    SaturatingLoss: (cross_entropy, lambda fake: -softplus(fake)),
    HingeLoss: (
        lambda real, fake: np.maximum(0, 1 - real).mean() + np.maximum(0, 1 + fake).mean(),
        lambda fake: -fake.mean(),
    ),
    WassersteinLoss: (lambda real, fake: fake.mean() - real.mean(), lambda fake: -fake.mean()),
    LeastSquaresLoss: (
        lambda real, fake: 0.5 * ((real - 1) ** 2).mean() + 0.5 * (fake**2).mean(),
        lambda fake: 0.5 * ((fake - 1) ** 2).mean(),
    ),
}
# Per loss: derivatives by D(x) and D(G(z)) of the discriminator's loss, and by D(G(z)) of the generator's,
# where the score is -1e4 and where it is +1e4. The sigmoids are then 0 and 1 to the last bit.
SLOPES_FAR_OUT = {
    NonSaturatingLoss: ((-1, 0), (0, 1), (-1, 0)),
    SaturatingLoss: ((-1, 0), (0, 1), (0, -1)),
    HingeLoss: ((-1, 0), (0, 1), (-1, -1)),
    WassersteinLoss: ((-1, -1), (1, 1), (-1, -1)),
    LeastSquaresLoss: ((-10001, 9999), (-10000, 10000), (-10001, 9999)),
}
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(params=FORMULAS)
def loss(request):
    return request.param()


def both(loss, real, fake):
    """The two losses beside those of the formulas."""
    formulas = FORMULAS[type(loss)]
    arrays = [x.detach().double().numpy() for x in (real, fake)]
    return [
        (loss.discriminator(real_scores=real, fake_scores=fake), formulas[0](*arrays)),
        (loss.generator(fake_scores=fake), formulas[1](arrays[1])),
    ]


@DTYPES
def test_values_equal_the_papers_formulas(loss, dtype):
    real, fake = 8 * torch.randn(64, dtype=dtype), 8 * torch.randn(48, dtype=dtype)
    # A mean of 64 terms loses a few units in the last place at most; Wasserstein's two means may cancel.
    tolerance = 8 * torch.finfo(dtype).eps
    for value, expected in both(loss, real, fake):
        torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype), rtol=tolerance, atol=tolerance)


@DTYPES
def test_values_and_gradients_are_right_far_out(loss, dtype):
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        real, fake = (torch.tensor([(-1e4, 1e4)[k]], dtype=dtype, requires_grad=True) for k in (i, j))
        found = both(loss, real, fake)
        for value, expected in found:
            torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype))
        slopes = *torch.autograd.grad(found[0][0], (real, fake)), *torch.autograd.grad(found[1][0], fake)
        expected = [pair[k] for pair, k in zip(SLOPES_FAR_OUT[type(loss)], (i, j, j), strict=True)]
        assert [slope.item() for slope in slopes] == expected


@pytest.mark.parametrize("score", [21.0, 30.0])
def test_log_losses_keep_their_small_terms_in_float64(score):
    # torch's softplus drops log1p(exp(-x)) from x = 20 on, which float64 still resolves.
    score = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    assert -SaturatingLoss().generator(score).item() == np.logaddexp(0, score.item()) != score.item()
    small = NonSaturatingLoss().generator(score)
    assert small.item() == pytest.approx(math.log1p(math.exp(-score.item())), rel=1e-14)
    (slope,) = torch.autograd.grad(small, score)
    assert slope.item() == pytest.approx(-1 / (1 + math.exp(score.item())), rel=1e-14)


def test_gradients_equal_finite_differences_twice(loss):
    # Away from the hinge's kinks at -1 and 1, where finite differences mean nothing.
    real = torch.tensor([-2.5, -0.3, 0.4, 3.0], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-3.1, -0.7, 0.2, 1.9, 2.2], dtype=torch.float64, requires_grad=True)
    for function, scores in ((loss.discriminator, (real, fake)), (loss.generator, (fake,))):
        assert torch.autograd.gradcheck(function, scores)
        # JARE and ConOpt differentiate the gradients once more; losses linear in the scores have nothing there.
        if not isinstance(loss, HingeLoss | WassersteinLoss):
            assert torch.autograd.gradgradcheck(function, scores)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_are_computed_in_float32(loss, dtype):
    # 300 is exact in both dtypes, its square overflows float16; the gradient comes back in the scores' dtype.
    real = torch.tensor([300.0, -0.25, 0.125], dtype=dtype, requires_grad=True)
    fake = torch.tensor([300.0, 0.375, -0.75], dtype=dtype, requires_grad=True)
    for (half, _), (full, _) in zip(both(loss, real, fake), both(loss, real.float(), fake.float()), strict=True):
        assert half.dtype == torch.float32
        assert half == full
        assert half.isfinite()
    assert torch.autograd.grad(loss.generator(fake), fake)[0].dtype == dtype


def test_a_loss_needs_both_methods():
    assert AdversarialLoss.__abstractmethods__ == {"discriminator", "generator"}
