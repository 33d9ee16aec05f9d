"""The SVD parametrization and its D-optimal regularisation."""

import copy

import numpy as np
import pytest
import torch
from helpers.preconditioned import IMAGES, LAYERS, discriminator, input_shape, numpy_singular_values, sgd, train
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from pcgan_lightning.losses import DOptimalPenalty
from pcgan_lightning.spectra import (
    d_optimal_penalty,
    match_preconditioning,
    orthogonal_svd,
    precondition,
    preconditioners,
    remove_svd,
    singular_values,
    svd_factors,
)


@pytest.mark.parametrize("kind", LAYERS)
def test_singular_values_are_the_absolute_d(kind):
    """At the start, where U and V are orthogonal; whatever the signs of d."""
    layer = orthogonal_svd(LAYERS[kind]())
    ((u, d, v),) = svd_factors(layer).values()
    assert torch.equal(d, torch.ones_like(d))
    for x in (u, v):
        torch.testing.assert_close(x @ x.mT, torch.eye(x.shape[-2]).expand(len(x), -1, -1), rtol=0, atol=1e-5)
    with torch.no_grad():
        d.copy_(torch.linspace(1.0, -0.7, d.numel()).view_as(d))
    expected = d.detach().abs().flatten().sort(descending=True).values
    np.testing.assert_allclose(numpy_singular_values(layer), expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(singular_values(layer)["weight"], expected, rtol=0, atol=1e-5)
    assert layer(torch.ones(1, *input_shape(layer))).isfinite().all()


@pytest.mark.parametrize("shape", [(4, 3), (3, 5)])
def test_derivatives_of_weight_and_penalty(shape):
    """Against finite differences, with d of both signs and 0, and U and V that are not orthogonal."""
    layer = orthogonal_svd(nn.Linear(shape[1], shape[0], bias=False).double())
    ((u, _, v),) = svd_factors(layer).values()
    # The largest |d| is 1 and a constant to the gradient.
    values = torch.tensor([[-1.0, 0.0, 0.4]]).double()
    point = [(x + 0.1 * torch.randn_like(x)).detach().requires_grad_() for x in (u, v)]
    smaller = values[:, 1:].clone().requires_grad_()
    parametrization = layer.parametrizations.weight[0]

    def weight(u, small, v):
        return parametrization(u, torch.cat([values[:, :1], small], 1), v)

    assert torch.autograd.gradcheck(weight, (point[0], smaller, point[1]))
    assert torch.autograd.gradgradcheck(weight, (point[0], smaller, point[1]))

    def penalty(u, d, v):
        names = [f"parametrizations.weight.original{i}" for i in range(3)]
        holder = copy.deepcopy(layer)
        for name, x in zip(names, (u, d, v), strict=True):
            path, _, last = name.rpartition(".")
            delattr(holder.get_submodule(path), last)
            setattr(holder.get_submodule(path), last, x)
        return d_optimal_penalty(holder, 0.3)

    whole = torch.tensor([[-0.8, 0.0, 0.4]]).double().requires_grad_()
    # A step small beside the 1e-3 within which the logarithm is rounded off.
    assert torch.autograd.gradcheck(penalty, (point[0], whole, point[1]), eps=1e-8, atol=1e-3, rtol=1e-3)


def test_penalty_by_numpy():
    network = orthogonal_svd(discriminator())
    expected = 0.0
    with torch.no_grad():
        for u, d, v in svd_factors(network).values():
            for x in (u, d, v):
                x.add_(0.1 * torch.randn_like(x))
            for x in (u.numpy(), v.numpy()):
                expected += sum(np.linalg.norm(block @ block.T - np.eye(len(block))) ** 2 for block in x)
            expected -= 0.2 * np.log(np.abs(d.numpy())).mean()
    found = DOptimalPenalty(7.0, 0.2)(network, IMAGES, IMAGES, torch.rand(2))
    # The rounded logarithm differs by 1e-6 / (2 d^2), with d about 1.
    assert found.item() == pytest.approx(7 * expected, rel=1e-5)
    assert len(svd_factors(network)) == 6  # the last, linear layer among them


def test_d_through_zero_gives_no_nan():
    network = orthogonal_svd(discriminator())
    with torch.no_grad():
        for _, d, _ in svd_factors(network).values():
            d[..., 0] = 0.0
    loss = network(IMAGES).square().mean() + d_optimal_penalty(network)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


def test_an_optimizer_step_divides_out_the_largest_d():
    network = orthogonal_svd(discriminator())
    with torch.no_grad():
        for _, d, _ in svd_factors(network).values():
            d.mul_(0.5)
            d[..., 0] = -3.0
    optimizer = sgd(network, 0.0)
    network(IMAGES).sum().backward()
    before = network(IMAGES)
    optimizer.step()
    for _, d, _ in svd_factors(network).values():
        assert d.abs().max().item() == pytest.approx(1, abs=1e-15)
        assert d.flatten()[0].item() == -1
    torch.testing.assert_close(network(IMAGES), before, rtol=1e-12, atol=0)


def test_training_keeps_the_spectrum_of_w_near_d():
    """A strong penalty, and the singular values of W, by numpy, stay within its reach of |d|."""
    network = orthogonal_svd(discriminator())
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (network(IMAGES).square().mean() + 10 * d_optimal_penalty(network)).backward()
        optimizer.step()
    for name, (_, d, _) in svd_factors(network).items():
        found = numpy_singular_values(network.get_submodule(name))
        # 60 steps of 1e-3 against a penalty of weight 10.
        np.testing.assert_allclose(found, d.detach().abs().flatten().sort().values.flip(0), atol=0.05)


def test_folding_and_loading():
    network = orthogonal_svd(discriminator())
    train(network, sgd(network))
    saved, outputs = network.state_dict(), network(IMAGES)
    fresh = discriminator()
    match_preconditioning(fresh, saved)
    fresh.load_state_dict(saved)
    assert torch.equal(fresh(IMAGES), outputs)
    for n in (network, fresh):  # and training resumes exactly
        train(n, sgd(n))
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), fresh.state_dict().values(), strict=True)
    )

    # A preconditioned state takes the SVD off and puts PC-layers on, and the other way round.
    other = precondition(discriminator(), 3)
    match_preconditioning(fresh, other.state_dict())
    fresh.load_state_dict(other.state_dict())
    assert len(preconditioners(fresh)) == 6
    match_preconditioning(other, saved)
    other.load_state_dict(saved)

    copied = copy.deepcopy(network)
    plain = remove_svd(copied)
    torch.testing.assert_close(plain(IMAGES), network(IMAGES), rtol=1e-12, atol=0)
    assert set(plain.state_dict()) == set(discriminator().state_dict())
    assert len(svd_factors(network)) == 6


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (lambda n: precondition(n, 3, ["2"], normalize_rest=False), "Preconditioner"),
        (lambda n: parametrizations.spectral_norm(n[2]), "_SpectralNorm"),
        (lambda n: spectral_norm(n[2]), "SpectralNorm"),
    ],
)
def test_refused_and_nothing_changed(prepare, kind):
    network = discriminator()
    prepare(network)
    keys = list(network.state_dict())
    with pytest.raises(ValueError, match=rf"layer '2' can't be .*: its weight must have no .*, got \['{kind}'\]$"):
        orthogonal_svd(network)
    assert list(network.state_dict()) == keys
    with pytest.raises(ValueError, match="argument `module` must have layers under `orthogonal_svd`, got Sequential"):
        d_optimal_penalty(network)
    with pytest.raises(ValueError, match=r"layer '0' can't be preconditioned: .* got \['OrthogonalSVD'\]"):
        precondition(orthogonal_svd(discriminator()), 3)
    with pytest.raises(ValueError, match="argument `module` must hold a Linear"):
        orthogonal_svd(nn.ReLU())
