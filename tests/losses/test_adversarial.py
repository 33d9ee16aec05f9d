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
    """log(1 + exp(x)), by numpy's own stable formula."""
    return np.logaddexp(0, x)


# Discriminator's and generator's loss in numpy, straight from the papers: -log sigmoid(x) = softplus(-x).
FORMULAS = {
    NonSaturatingLoss: (
        lambda real, fake: np.mean(softplus(-real)) + np.mean(softplus(fake)),
        lambda fake: np.mean(softplus(-fake)),
    ),
    SaturatingLoss: (
        lambda real, fake: np.mean(softplus(-real)) + np.mean(softplus(fake)),
        lambda fake: -np.mean(softplus(fake)),
    ),
    HingeLoss: (
        lambda real, fake: np.mean(np.maximum(0, 1 - real)) + np.mean(np.maximum(0, 1 + fake)),
        lambda fake: -np.mean(fake),
    ),
    WassersteinLoss: (
        lambda real, fake: np.mean(fake) - np.mean(real),
        lambda fake: -np.mean(fake),
    ),
    LeastSquaresLoss: (
        lambda real, fake: 0.5 * np.mean((real - 1) ** 2) + 0.5 * np.mean(fake**2),
        lambda fake: 0.5 * np.mean((fake - 1) ** 2),
    ),
}
LOSSES = list(FORMULAS)

# Per loss: derivatives by D(x) and D(G(z)) of the discriminator's loss, and by D(G(z)) of the generator's,
# where the score is -1e4 and where it is +1e4. The sigmoids are then 0 and 1 to the last bit.
SLOPES_FAR_OUT = {
    NonSaturatingLoss: ((-1, 0), (0, 1), (-1, 0)),
    SaturatingLoss: ((-1, 0), (0, 1), (0, -1)),
    HingeLoss: ((-1, 0), (0, 1), (-1, -1)),
    WassersteinLoss: ((-1, -1), (1, 1), (-1, -1)),
    LeastSquaresLoss: ((-10001, 9999), (-10000, 10000), (-10001, 9999)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_equal_the_papers_formulas(loss, dtype):
    generator = torch.Generator().manual_seed(0)
    real = 8 * torch.randn(64, generator=generator, dtype=torch.float64).to(dtype)
    fake = 8 * torch.randn(48, generator=generator, dtype=torch.float64).to(dtype)
    expected_discriminator, expected_generator = FORMULAS[loss]
    # A mean of 64 terms loses a few units in the last place at most; Wasserstein's two means may cancel.
    tolerance = {"rtol": 8 * torch.finfo(dtype).eps, "atol": 8 * torch.finfo(dtype).eps}
    real_array, fake_array = real.double().numpy(), fake.double().numpy()
    for value, expected in [
        (loss().discriminator(fake_scores=fake, real_scores=real), expected_discriminator(real_array, fake_array)),
        (loss().generator(fake_scores=fake), expected_generator(fake_array)),
    ]:
        assert value.shape == ()
        torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype), **tolerance)


@pytest.mark.parametrize("score", [21.0, 30.0])
def test_log_losses_keep_their_small_terms_in_float64(score):
    # torch's softplus drops log1p(exp(-x)) from x = 20 on, which float64 still resolves.
    score = torch.tensor([score], dtype=torch.float64, requires_grad=True)
    value = -SaturatingLoss().generator(score)
    assert value.item() == np.logaddexp(0, score.item()) != score.item()
    small = NonSaturatingLoss().generator(score)
    assert small.item() == pytest.approx(math.log1p(math.exp(-score.item())), rel=1e-14)
    (slope,) = torch.autograd.grad(small, score)
    assert slope.item() == pytest.approx(-1 / (1 + math.exp(score.item())), rel=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients_are_right_far_out(loss, dtype):
    expected_discriminator, expected_generator = FORMULAS[loss]
    real_slopes, fake_slopes, generator_slopes = SLOPES_FAR_OUT[loss]
    scores = (-1e4, 1e4)
    for i, real_score in enumerate(scores):
        for j, fake_score in enumerate(scores):
            real = torch.tensor([real_score], dtype=dtype, requires_grad=True)
            fake = torch.tensor([fake_score], dtype=dtype, requires_grad=True)
            value = loss().discriminator(real, fake)
            expected = expected_discriminator(np.array([real_score]), np.array([fake_score]))
            torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype))
            slopes = [slope.item() for slope in torch.autograd.grad(value, (real, fake))]
            assert slopes == [real_slopes[i], fake_slopes[j]]

            value = loss().generator(fake)
            expected = expected_generator(np.array([fake_score]))
            torch.testing.assert_close(value, torch.tensor(expected, dtype=dtype))
            assert torch.autograd.grad(value, fake)[0].item() == generator_slopes[j]


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_equal_finite_differences_twice(loss):
    # Away from the hinge's kinks at -1 and 1, where finite differences mean nothing.
    real = torch.tensor([-2.5, -0.3, 0.4, 3.0], dtype=torch.float64, requires_grad=True)
    fake = torch.tensor([-3.1, -0.7, 0.2, 1.9, 2.2], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(loss().discriminator, (real, fake))
    assert torch.autograd.gradcheck(loss().generator, (fake,))
    # JARE and ConOpt differentiate the gradients once more; losses linear in the scores have nothing there.
    if loss in (NonSaturatingLoss, SaturatingLoss, LeastSquaresLoss):
        assert torch.autograd.gradgradcheck(loss().discriminator, (real, fake))
        assert torch.autograd.gradgradcheck(loss().generator, (fake,))


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_scores_are_computed_in_float32(loss):
    # 300 is exact in both dtypes, its square overflows float16; the gradient comes back in the scores' dtype.
    for dtype in (torch.float16, torch.bfloat16):
        real = torch.tensor([300.0, -0.25, 0.125], dtype=dtype, requires_grad=True)
        fake = torch.tensor([300.0, 0.375, -0.75], dtype=dtype, requires_grad=True)
        for half, full in [
            (loss().discriminator(real, fake), loss().discriminator(real.float(), fake.float())),
            (loss().generator(fake), loss().generator(fake.float())),
        ]:
            assert half.dtype == torch.float32
            assert half == full
            assert half.isfinite()
        assert torch.autograd.grad(loss().generator(fake), fake)[0].dtype == dtype


def test_base_class_asks_for_both_methods():
    class Half(AdversarialLoss):
        def generator(self, fake_scores):
            return fake_scores.mean()

    with pytest.raises(TypeError, match="discriminator"):
        Half()
