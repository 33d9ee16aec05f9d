"""Gradient penalties against closed forms and finite differences."""

import pytest
import torch
from torch import nn

from pcgan_lightning.losses import GradientPenalty, R1Penalty
from pcgan_lightning.losses.penalties import gradient_norms
from pcgan_lightning.networks import ResNetDiscriminator
from pcgan_lightning.spectra import precondition, shared_weights


class Linear(nn.Module):
    """<w, x>: its gradient is w everywhere."""

    def __init__(self, norm):
        super().__init__()
        direction = torch.randn(2, 3, 4, dtype=torch.float64)
        self.w = nn.Parameter(norm * direction / direction.norm())

    def forward(self, images):
        return (images * self.w).flatten(1).sum(1)


def batch(count):
    real, fake = torch.randn(2, count, 2, 3, 4, dtype=torch.float64)
    return real, fake, torch.rand(count, dtype=torch.float64)


@pytest.mark.parametrize(("count", "norm"), [(1, 3.0), (4, 1.0), (64, 0.25)])
def test_a_critic_of_constant_gradient(count, norm):
    """10 (norm - 1)^2 whatever the batch; R1 is 5 norm^2."""
    critic = Linear(norm)
    assert GradientPenalty(10.0)(critic, *batch(count)).item() == pytest.approx(10 * (norm - 1) ** 2, abs=1e-12)
    assert R1Penalty(10.0)(critic, *batch(count)).item() == pytest.approx(5 * norm**2, rel=1e-12)


def test_where_the_gradient_is_taken():
    """Of |x|^2 / 2 it is x itself: mixed points for WGAN-GP, real ones for R1."""
    real, fake, mixing = batch(5)
    critic = lambda images: images.flatten(1).square().sum(1) / 2  # noqa: E731
    shares = mixing.view(-1, 1, 1, 1)
    norms = (shares * real + (1 - shares) * fake).flatten(1).norm(dim=1)
    torch.testing.assert_close(GradientPenalty()(critic, real, fake, mixing), 10 * ((norms - 1) ** 2).mean())
    expected = 5 * (real.flatten(1).norm(dim=1) ** 2).mean()
    torch.testing.assert_close(R1Penalty()(critic, real, fake, mixing), expected)


@pytest.mark.parametrize(
    ("penalty", "degree"),
    [(GradientPenalty(2.0), None), (GradientPenalty(2.0), 7), (R1Penalty(2.0), 1), (R1Penalty(2.0), 7)],
)
def test_gradient_by_finite_differences(penalty, degree):
    """Of the critic's parameters, also through PC-layers, whose singular vectors are constants."""
    critic = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Softplus(), nn.Flatten(), nn.Linear(18, 1), nn.Flatten(0)).double()
    if degree is not None:
        precondition(critic, degree, "all")
    points, parameters = batch(3), list(critic.parameters())
    gradients = torch.autograd.grad(penalty(critic, *points), parameters, materialize_grads=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        direction, values = torch.randn_like(parameter), []
        for step in (1e-6, -2e-6, 1e-6):
            parameter.data += step * direction
            values.append(penalty(critic, *points).item())
        # Central differences of step h err by h^2 and by rounding / h.
        found = (gradient * direction).sum().item()
        assert found == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-5, abs=1e-8)


def test_zero_gradient_is_no_nan():
    critic = Linear(0.0)
    GradientPenalty()(critic, *batch(3)).backward()
    assert torch.isfinite(critic.w.grad).all()


def test_norms_in_float32_of_half_precision():
    norms = gradient_norms(Linear(300.0).half(), batch(2)[0].half())
    torch.testing.assert_close(norms, torch.full((2,), 300.0), rtol=1e-3, atol=0.0)


def test_through_cached_pc_layers_of_a_resnet():
    """The cache of weights that one update shares makes no difference."""
    network = precondition(ResNetDiscriminator(width=4), 7)
    real, fake, mixing = torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32), torch.rand(4)
    weight = network.blocks[0].conv1.parametrizations.weight.original
    (plain,) = torch.autograd.grad(GradientPenalty()(network, real, fake, mixing), weight)
    with shared_weights():
        network(real)
        (cached,) = torch.autograd.grad(GradientPenalty()(network, real, fake, mixing), weight)
    assert plain.norm() > 0
    torch.testing.assert_close(cached, plain)


def test_negative_weight():
    with pytest.raises(ValueError, match="argument `weight` must not be negative, got -1"):
        GradientPenalty(-1)
