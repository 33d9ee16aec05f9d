"""PC-layers computed together: the same numbers and derivatives as alone, and nothing taken from one another."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from pcgan_lightning.spectra import (
    as_polynomial,
    batches,
    forward_passes,
    original_weight,
    precondition,
    preconditioners,
    remove_preconditioning,
    weight_layers,
)
from pcgan_lightning.spectra.batches import batches_of, preconditioned
from pcgan_lightning.spectra.matrix_polynomials import power_series


class Weights(nn.Module):
    """A network whose outputs are its effective weights: twice one shape, a tall one of it, and smaller ones."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(5, 3), nn.Linear(5, 3), nn.Linear(3, 5), nn.Conv2d(2, 2, 2), nn.ConvTranspose1d(2, 3, 1)]
        )

    def forward(self):
        return [layer.weight for layer in self.layers]


def network(degree=5):
    return precondition(Weights(), degree, "all").double()


def cotangents(net):
    return [torch.randn_like(layer.weight) for layer in net.layers]


def originals(net):
    return [original_weight(layer) for layer in net.layers]


@pytest.fixture
def calls(monkeypatch):
    """The number of layers in each call."""
    found = []
    monkeypatch.setattr(forward_passes, "preconditioned", lambda m: found.append(len(m)) or preconditioned(m))
    return found


def alone(net):
    """By the formula, each on its own and by autograd's derivatives."""
    results = []
    for layer, p in zip(net.layers, preconditioners(net).values(), strict=True):
        matrices = p.matrices(original_weight(layer))
        effective = p.polynomial.of_matrix(matrices / p.spectral_norm(matrices))
        results.append(p.layout.to_weight(effective, original_weight(layer).shape))
    return results


@pytest.mark.parametrize("degree", [1, 3, 5, 7, 9, 11, 15, 17])
def test_numbers_and_gradients_are_those_of_each_alone(degree):
    net = network(degree)
    for p in preconditioners(net).values():
        p.u.add_(0.1 * torch.randn_like(p.u))  # off the singular vectors, where a wrong gradient might not show
    weights, given = net(), cotangents(net)
    found = torch.autograd.grad(weights, originals(net), given)
    expected = torch.autograd.grad(alone(net), originals(net), given)
    for a, b in zip((*weights, *found), (*alone(net), *expected), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_float32_keeps_six_digits():
    net = precondition(Weights(), 9, "all")
    given = cotangents(net)
    expected = torch.autograd.grad(alone(net), originals(net), given)
    for a, b in zip(torch.autograd.grad(net(), originals(net), given), expected, strict=True):
        assert (a - b).norm() <= 1e-6 * b.norm()


@pytest.mark.parametrize("degree", [1, 3, 13, 17])
def test_second_derivatives(degree):
    net = network(degree)

    def effective(*weights):
        layers = zip(net.layers, preconditioners(net).values(), strict=True)
        kinds = [p.member(original_weight(layer)) for layer, p in layers]
        members = [kind._replace(weight=weight) for kind, weight in zip(kinds, weights, strict=True)]
        return tuple(preconditioned(members))

    weights = [w.detach().clone().requires_grad_() for w in originals(net)]
    assert torch.autograd.gradcheck(effective, weights)
    assert torch.autograd.gradgradcheck(effective, weights)


def test_equal_and_small_matrices_take_one_call(calls, monkeypatch):
    stacks = []
    of = batches._Values.of.__func__
    monkeypatch.setattr(
        batches._Values, "of", classmethod(lambda cls, w, *rest: stacks.append(tuple(w.shape)) or of(cls, w, *rest))
    )
    network()()
    assert calls == [5]
    assert stacks == [(5, 3, 8)]  # zeros around 3 x 5 and 3 x 2, beside 2 x 8


def test_large_matrices_get_no_zeros():
    kinds, devices = ["float32"] * 4, ["cpu"] * 4
    assert batches_of([(300, 500), (290, 500), (300, 500), (290, 500)], kinds, devices) == [[0, 2], [1, 3]]
    # Four times the products at most: 64 x 64 takes 64 x 16 with it, of 8 x 1000 nothing.
    assert batches_of([(64, 64), (8, 1000), (16, 64)], kinds[:3], devices[:3]) == [[1], [0, 2]]
    assert batches_of([(64, 64), (64, 64)], ["float32", "float64"], devices[:2]) == [[0], [1]]


def test_the_layers_of_one_loss_leave_the_others_alone():
    net = network()
    weights, given = net(), cotangents(net)
    expected = torch.autograd.grad(alone(net), originals(net), given)
    torch.autograd.backward(weights[1:3], given[1:3])
    assert [w.grad is None for w in originals(net)] == [True, False, False, True, True]
    # What one loss has freed, the others don't need.
    torch.autograd.backward([weights[0], *weights[3:]], [given[0], *given[3:]])
    for weight, gradient in zip(originals(net), expected, strict=True):
        torch.testing.assert_close(weight.grad, gradient, rtol=1e-12, atol=1e-12)


def test_frozen_layers_get_no_gradient():
    net = network()
    original_weight(net.layers[0]).requires_grad_(False)
    torch.autograd.backward([w.sum() for w in net() if w.requires_grad])
    assert [w.grad is None for w in originals(net)] == [True, False, False, False, False]


def test_a_backward_pass_after_the_vectors_have_moved():
    """A batch has its own copy; one layer alone tells of it, as torch does."""
    net = network()
    given, weights, single = cotangents(net), net(), net.layers[0].weight
    expected = torch.autograd.grad(alone(net), originals(net), given)
    for p in preconditioners(net).values():
        p.u.mul_(-1)
    for a, b in zip(torch.autograd.grad(weights, originals(net), given), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    with pytest.raises(RuntimeError, match="changed in place"):
        single.sum().backward()


def test_weights_stay_contiguous_and_may_be_changed_in_place():
    for weight in network()():
        assert weight.is_contiguous()
        weight.mul_(2)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda n: n])
def test_copies_compute_their_own_together(make, calls):
    net = network()
    replica = make(net)
    with torch.no_grad():
        original_weight(replica.layers[0]).mul_(-1)
    torch.testing.assert_close(replica()[0], alone(replica)[0])
    assert calls == [5]


def test_each_pass_has_weights_of_its_own():
    net = network()
    first, second = net(), net()
    assert all(a is not b for a, b in zip(first, second, strict=True))
    torch.autograd.backward(first, cotangents(net))
    torch.autograd.backward(second, cotangents(net))  # a graph that is not freed
    with torch.no_grad():
        original_weight(net.layers[0]).data.mul_(torch.rand(3, 5))  # which torch does not count
    assert not torch.allclose(net()[0], first[0])
    assert net.layers[0].weight is not net.layers[0].weight


def test_what_torch_caches_is_not_computed_again(calls):
    net = network()
    with parametrize.cached():
        first = net()
        assert all(a is b for a, b in zip(first, net(), strict=True))
    assert calls == [5, 0]


class Interrupted(Weights):
    def forward(self, error=None):
        weights = super().forward()
        if error is not None:
            raise error
        return weights


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_pass_that_fails_leaves_nothing_behind(error):
    net = precondition(Interrupted(), 3, "all")
    with pytest.raises(error):
        net(error())
    net()
    assert net.layers[0].weight is not net.layers[0].weight


def test_hooks_stand_once_and_go_with_the_layers():
    net = network()
    precondition(net, 7, "all")
    assert len(net._forward_pre_hooks) == len(net._forward_hooks) == 1
    remove_preconditioning(net)
    assert not net._forward_pre_hooks
    assert not net._forward_hooks
    single = precondition(nn.Linear(2, 2), 3, "all")  # has nothing to share
    assert not single._forward_pre_hooks
    assert list(weight_layers(single)) == ["weight"]


@pytest.mark.parametrize("terms", [1, 2, 4, 5, 7, 8, 9])
def test_the_derivative_of_a_power_series(terms):
    """Against autograd, in a direction that does not commute with G."""
    coefficients = as_polynomial(17).coefficients[1:] if terms == 8 else tuple(torch.randn(terms).tolist())
    x, direction = torch.randn(2, 4, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)
    gram, direction = x @ x.mT / 20, direction + direction.mT
    value, expected = torch.func.jvp(lambda g: power_series(g, coefficients).value, (gram,), (direction,))
    series = power_series(gram, coefficients)
    torch.testing.assert_close(series.value, value)
    torch.testing.assert_close(series.derivative(direction), expected, rtol=1e-10, atol=1e-10)
