"""Weights that several forward passes share: computed once, never stale, each thread's own."""

import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pcgan_lightning.spectra import (
    Polynomial,
    forward_passes,
    original_weight,
    power_iteration,
    precondition,
    preconditioners,
    shared_weights,
)
from pcgan_lightning.spectra.batches import preconditioned


def network():
    return precondition(nn.Sequential(nn.Conv2d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 1)), 3, "all").double()


def images(count=4):
    return torch.randn(count, 2, 4, 4, dtype=torch.float64)


def test_computed_once_with_equal_scores_and_gradients(monkeypatch):
    net, real, fake = network(), images(), images()
    plain = net(real).sum() - net(fake).square().sum()
    expected = torch.autograd.grad(plain, list(net.parameters()))
    computed = []
    monkeypatch.setattr(forward_passes, "preconditioned", lambda m: computed.extend(m) or preconditioned(m))
    with shared_weights():
        shared = net(real).sum() - net(fake).square().sum()
    assert len(computed) == 2  # layers, not passes
    assert torch.equal(shared, plain)
    # The sum over passes is taken before or after the backward pass through g(SN(W)): another rounding.
    for found, gradient in zip(torch.autograd.grad(shared, list(net.parameters())), expected, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-12, atol=1e-14)


def test_differentiated_twice():
    net, real, fake = network(), images(), images()
    weight = original_weight(net[0])

    def penalty():
        real.requires_grad_()
        (gradient,) = torch.autograd.grad(net(real).sum() + net(fake).sum(), real, create_graph=True)
        return torch.autograd.grad(gradient.square().sum(), weight)[0]

    expected = penalty()
    with shared_weights():
        found = penalty()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def change_in_place(layer):
    with torch.no_grad():
        original_weight(layer).mul_(torch.rand(3, 2, 3, 3))


def change_data(layer):
    original_weight(layer).data = torch.randn_like(original_weight(layer))


def change_data_twice(layer):
    """The second may come to lie where the first one was."""
    change_data(layer)
    change_data(layer)


def replace(layer):
    layer.parametrizations.weight.original = nn.Parameter(torch.randn_like(original_weight(layer)))


def step(layer):
    original_weight(layer).grad = torch.randn_like(original_weight(layer))
    torch.optim.SGD([original_weight(layer)], lr=0.5).step()


def change_vectors(layer):
    p = preconditioners(layer)["weight"]
    p.v = nn.functional.normalize(torch.randn_like(p.v), dim=-1)


def move_vectors(layer):
    p = preconditioners(layer)["weight"]
    p.v.copy_(nn.functional.normalize(torch.randn_like(p.v), dim=-1))
    power_iteration(layer)


def change_polynomial(layer):
    preconditioners(layer)["weight"].polynomial = Polynomial((1.5, -0.4))


def load(layer):
    layer.load_state_dict(precondition(nn.Conv2d(2, 3, 3), 5).double().state_dict())


CHANGES = (
    change_in_place,
    change_data,
    change_data_twice,
    replace,
    step,
    change_vectors,
    move_vectors,
    change_polynomial,
    load,
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(change):
    layer = network()[0]
    with shared_weights():
        before = layer.weight.detach().clone()
        change(layer)
        found = layer.weight
        assert found is layer.weight
    assert not torch.allclose(found, before)
    assert torch.equal(found, layer.weight)


def test_a_weight_computed_without_a_graph_does_not_serve_one():
    layer = network()[0]
    with shared_weights():
        for mode in (torch.no_grad(), torch.inference_mode()):
            with mode:
                assert not layer.weight.requires_grad
        assert layer.weight.requires_grad
        assert not layer.weight.is_inference()
        layer.requires_grad_(False)
        assert not layer.weight.requires_grad


def test_the_graph_leads_to_the_present_parameter():
    """Even where another has the same memory."""
    layer = network()[0]
    with shared_weights():
        _ = layer.weight
        layer.parametrizations.weight.original = nn.Parameter(original_weight(layer).data)
        layer.weight.sum().backward()
    assert original_weight(layer).grad is not None


def test_nothing_is_shared_beyond_the_outermost_block():
    layer = network()[0]
    with shared_weights():
        first = layer.weight
        with shared_weights():
            assert layer.weight is first
        assert layer.weight is first
    assert layer.weight is not first
    with shared_weights():
        assert layer.weight is not first
    with pytest.raises(ZeroDivisionError), shared_weights():
        _ = 1 / 0
    assert layer.weight is not layer.weight


def test_each_thread_has_its_own():
    layer = network()[0]
    found = {}

    def look(shared):
        if shared:
            with shared_weights():
                found[shared] = [layer.weight, layer.weight]
        else:
            found[shared] = [layer.weight, layer.weight]

    with shared_weights():
        own = layer.weight
        threads = [threading.Thread(target=look, args=(shared,)) for shared in (False, True)]
        for thread in threads:
            thread.start()
            thread.join()
        assert layer.weight is own
    assert found[True][0] is found[True][1]
    assert len({id(weight) for weight in (*found[True], *found[False], own)}) == 4


def test_transforms_of_functions():
    """Inside of torch.func the weight is no tensor in memory, and is computed as without the block."""
    layer = network()[3]
    x, parameters = torch.randn(5, 12, dtype=torch.float64), dict(layer.named_parameters())

    def score(parameters, row):
        return torch.func.functional_call(layer, parameters, (row,)).sum()

    per_row = torch.func.vmap(torch.func.grad(score), in_dims=(None, 0))
    expected = per_row(parameters, x)
    with shared_weights():
        _ = layer.weight
        found = per_row(parameters, x)
    for name, value in expected.items():
        assert torch.equal(found[name], value)


def test_inference_tensors_are_not_kept():
    with torch.inference_mode():
        layer = network()[0]
        with shared_weights():
            before = layer.weight.clone()
            original_weight(layer).mul_(torch.rand(3, 2, 3, 3))
            assert not torch.allclose(layer.weight, before)


def test_other_parametrizations_are_computed_as_without():
    """torch's spectral norm makes a power iteration in each pass."""
    layer = parametrizations.spectral_norm(nn.Linear(4, 4))
    x = torch.randn(2, 4)
    with shared_weights():
        layer(x)
        before = layer.parametrizations.weight[0]._u.clone()
        layer(x)
    assert not torch.equal(layer.parametrizations.weight[0]._u, before)
