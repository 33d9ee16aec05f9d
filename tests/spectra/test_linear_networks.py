"""Deep pyramid linear networks, and Theorem 1 of PC-GAN."""

import importlib

import numpy as np
import pytest
import torch
from helpers import ROOT
from torch import nn

from pcgan_lightning.spectra import (
    Descent,
    SpectralRegion,
    gradient_descent,
    linear_network,
    precondition,
    preconditioners,
)

WIDTHS = (6, 8, 9, 3)


def samples(count=4, inputs=6, outputs=3):
    source = torch.Generator().manual_seed(1)
    return tuple(torch.randn(count, width, generator=source, dtype=torch.float64) for width in (inputs, outputs))


def weights(network):
    return [layer.weight.detach().numpy().copy() for layer in network]


@pytest.mark.parametrize("condition", [1.0, 100.0])
def test_singular_values_of_given_condition_number(condition):
    for weight in weights(linear_network(WIDTHS, condition)):
        values = np.linalg.svd(weight, compute_uv=False)
        expected = condition ** -np.linspace(0, 1, min(weight.shape))
        np.testing.assert_allclose(values, expected, rtol=1e-11)  # 1e-16 of the largest is 1e-14 of the smallest


def test_gaussian_entries():
    (weight,) = weights(linear_network((100, 400), None))
    assert weight.std() == pytest.approx(0.1, rel=0.02)  # of 40,000 entries: its own error is 0.35%


def test_constants_by_hand():
    """Of X: norm 4, Frobenius norm 5, smallest singular value 3; tau multiply to 3, mu to 1/8, ||e(0)|| = 5."""
    region = SpectralRegion(((0.5, 2.0), (0.25, 1.5)))
    inputs = torch.tensor([[3.0, 0.0, 0.0], [0.0, 0.0, 4.0]], dtype=torch.float64)
    beta, mu = region.constants(inputs, torch.tensor([[3.0], [4.0]]))
    assert beta == pytest.approx(2 * 4 * 3 * (5 + 5 * 3), rel=1e-14)
    assert mu == pytest.approx((3 / 8) ** 2, rel=1e-14)


def test_region_around_a_network():
    """Its bounds are never on the wrong side of 1, nor of the weights."""
    network = nn.Sequential(*(nn.Linear(2, 2, bias=False, dtype=torch.float64) for _ in range(2)))
    for layer, entries in zip(network, ([2.0, 3.0], [0.5, 0.1]), strict=True):
        layer.weight.data = torch.tensor(entries, dtype=torch.float64).diag()
    region = SpectralRegion.around(network, below=0.5, above=1.5)
    np.testing.assert_allclose(region.bounds, [[1.0, 4.5], [0.05, 1.0]], rtol=1e-14)
    assert region.contains(network)
    assert not SpectralRegion(((1.0, 2.9), (0.05, 1.0))).contains(network)
    assert not SpectralRegion(((1.0, 4.5), (0.11, 1.0))).contains(network)


def test_one_iteration_follows_the_gradient_in_closed_form():
    network, (inputs, targets) = linear_network(WIDTHS, 5.0), samples()
    first, second, third = weights(network)
    x, y = inputs.numpy().T, targets.numpy().T
    run = gradient_descent(network, inputs, targets, 1)
    e = third @ second @ first @ x - y
    gradients = (third @ second).T @ e @ x.T, third.T @ e @ (first @ x).T, e @ (second @ first @ x).T
    for before, gradient, after in zip((first, second, third), gradients, weights(network), strict=True):
        np.testing.assert_allclose(after, before - gradient / run.beta, atol=1e-14)  # entries are below 1
    np.testing.assert_allclose(run.errors[0], (e**2).sum(), rtol=1e-13)


def test_with_pc_layers_it_follows_the_gradient_by_the_underlying_weights():
    """Central differences, whose error is some 1e-10 at this distance."""
    network, (inputs, targets) = precondition(linear_network(WIDTHS, 5.0), 7, "all"), samples()
    before = [p.detach().clone() for p in network.parameters()]
    numerical = []
    with torch.no_grad():
        for parameter in network.parameters():
            entry, losses = parameter[1, 2].clone(), []
            for sign in (1, -1):
                parameter[1, 2] = entry + sign * 1e-5
                losses.append((network(inputs) - targets).square().sum() / 2)
            parameter[1, 2] = entry
            numerical.append((losses[0] - losses[1]) / 2e-5)
    run = gradient_descent(network, inputs, targets, 1)
    for old, new, slope in zip(before, network.parameters(), numerical, strict=True):
        assert ((old - new)[1, 2] * run.beta).item() == pytest.approx(slope.item(), rel=1e-6, abs=1e-8)


def test_the_singular_vectors_of_pc_layers_follow_their_weights():
    """By one power iteration after each update."""
    network, (inputs, targets) = precondition(linear_network(WIDTHS, 5.0), 7, "all"), samples()
    before = [p.v.numpy().copy()[0] for p in preconditioners(network).values()]
    gradient_descent(network, inputs, targets, 1)
    for old, new, weight in zip(before, preconditioners(network).values(), network.parameters(), strict=True):
        moved = weight.detach().numpy().T @ weight.detach().numpy() @ old
        np.testing.assert_allclose(new.v.numpy()[0], moved / np.linalg.norm(moved), atol=1e-14)
        assert abs(new.v.numpy()[0] - old).max() > 1e-6


def violated(monkeypatch, seeds, iterations):
    """Return the updates in R, and those that violate (2), in settings of the benchmark."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    random_run = importlib.import_module("random_pyramids").random_run
    runs = [random_run(seed, iterations)[1] for seed in seeds]
    updates = sum(len(run.errors[:-1][: run.left]) for run in runs)
    return updates, [(seed, run.violations()) for seed, run in zip(seeds, runs, strict=True) if run.violations()]


def test_the_bound_holds_in_the_region(monkeypatch):
    updates, violations = violated(monkeypatch, range(10), 25)
    assert updates > 100
    assert violations == []


@pytest.mark.slow
def test_the_bound_holds_in_200_random_settings(monkeypatch):
    updates, violations = violated(monkeypatch, range(200), 100)
    assert updates > 5000
    assert violations == []


def test_violations_bound_and_iterations():
    errors = torch.tensor([1.0, 0.9, 0.5, 0.41, 0.3], dtype=torch.float64)
    run = Descent(beta=10.0, mu=2.0, errors=errors, left=None, rounding=1e-16)
    assert run.violations() == [0, 2]
    assert Descent(10.0, 2.0, errors, 2, 1e-16).violations() == [0]
    assert Descent(10.0, 2.0, errors, 0, 1e-16).violations() == []
    assert Descent(10.0, 2.0, errors, None, 0.03).violations() == []
    np.testing.assert_allclose(run.bound, 0.8 ** np.arange(5), rtol=1e-14)
    assert [run.iterations_to(ratio) for ratio in (0.5, 0.45, 0.1)] == [2, 3, None]


def test_leaving_the_region_is_seen_at_once():
    def train(iterations):
        network = linear_network(WIDTHS, 3.0)
        region = SpectralRegion.around(network, below=0.98)
        run = gradient_descent(network, *samples(), iterations, region)
        values = [np.linalg.svd(weight, compute_uv=False) for weight in weights(network)]
        inside = [low <= v[-1] and v[0] <= high for v, (low, high) in zip(values, region.bounds, strict=True)]
        return run, all(inside)

    left = train(50)[0].left
    assert left > 1
    assert [train(iterations)[1] for iterations in (left - 1, left)] == [True, False]
    assert train(left - 1)[0].left is None


def test_it_stops_at_the_given_ratio():
    network, (inputs, targets) = linear_network(WIDTHS), samples()
    run = gradient_descent(network, inputs, targets, 1000, until=0.1)
    assert run.iterations_to(0.1) == len(run.errors) - 1 > 1
    error = network(inputs) - targets
    assert error.square().sum().item() == pytest.approx(run.errors[-1].item(), rel=1e-12)


def test_lower_bounds_above_1_would_promise_too_much():
    """One weight of 10, x = 1 and a small error: mu = 100 and beta = 100 promise that it all but vanishes."""
    network, one = linear_network((1, 1)), torch.ones(1, 1, dtype=torch.float64)
    network[0].weight.data.fill_(10.0)
    run = gradient_descent(network, one, 9.99 * one, 1, SpectralRegion(((1.0, 10.0),)))
    assert run.beta == pytest.approx(10 * (0.01 + 10))
    assert (run.errors[1] / run.errors[0]).item() == pytest.approx((1 - 1 / run.beta) ** 2)
    assert run.errors[1] > (1 - 100 / run.beta) * run.errors[0]
    assert run.violations() == []


def test_with_pc_layers_the_theorem_does_not_speak_of_the_descent():
    """A 1 x 1 weight becomes its sign, so that nothing moves, in R or not."""
    network = precondition(linear_network((1, 1)), 7, "all")
    network[0].parametrizations.weight.original.data.fill_(3.0)
    one = torch.ones(1, 1, dtype=torch.float64)
    run = gradient_descent(network, one, 0.5 * one, 3)
    np.testing.assert_allclose(run.errors, 0.25, rtol=1e-14)
    assert run.left is None
    assert run.violations() == [0, 1, 2]


@pytest.mark.parametrize("widths", [(6, 3), (6, 8, 5, 8), (6,), (6, 8, 0)])
def test_no_pyramid(widths):
    with pytest.raises(ValueError, match="argument `widths` must rise to the widest layer and fall from there, got "):
        linear_network(widths)


@pytest.mark.parametrize("widths", [(3, 3, 3), (2, 4, 4, 3, 3, 1), (2, 2, 5), (4, 4, 2)])
def test_pyramids(widths):
    assert [layer.out_features for layer in linear_network(widths)] == list(widths[1:])


@pytest.mark.parametrize("bounds", [(0.0, 2.0), (1.1, 2.0), (0.5, 0.9), (0.5, float("inf")), (float("nan"), 2.0)])
def test_bounds_out_of_range(bounds):
    with pytest.raises(ValueError, match="argument `bounds` must be pairs with 0 < lower <= 1 <= upper, got "):
        SpectralRegion(((0.5, 2.0), bounds))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"inputs": torch.eye(7, 6).double(), "targets": torch.ones(7, 3)}, "independent rows, got 7 of rank 6"),
        ({"inputs": torch.ones(4, 6).double()}, "argument `inputs` must have linearly independent rows, got 4 of rank"),
        ({"targets": torch.ones(3)}, "argument `targets` must be of 4 x 3, got"),
        ({"network": nn.Sequential(nn.Linear(6, 8), nn.Linear(8, 3))}, "must be linear layers without biases, got"),
        ({"network": nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU())}, "linear layers without biases, got"),
        ({"network": nn.Sequential(nn.Linear(6, 3, bias=False))}, "fall from there, got widths \\[6, 3\\]"),
        ({"iterations": -1}, "argument `iterations` must be at least 0, got -1"),
        ({"region": SpectralRegion(((0.5, 2.0),))}, "argument `region` must have bounds for 3 layers, got 1"),
    ],
)
def test_refused(change, says):
    inputs, targets = samples()
    arguments = {"network": linear_network(WIDTHS), "inputs": inputs, "targets": targets, "iterations": 3}
    with pytest.raises(ValueError, match=says) as error:
        gradient_descent(**arguments | change)
    assert "\n" not in str(error.value)


def test_a_condition_number_below_1():
    with pytest.raises(ValueError, match="argument `condition_number` must be at least 1, got"):
        linear_network(WIDTHS, 0.5)
