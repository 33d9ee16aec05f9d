import math
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from helpers.preconditioned import (
    SPECTRAL_NORMS,
    assert_states_equal,
    numpy_singular_values,
    sgd,
    state,
)
from torch import nn

from pcgan_lightning.spectra import (
    condition_number,
    modified_condition_number,
    original_weight,
    precondition,
    preconditioners,
    singular_values,
)

EPS = torch.finfo(torch.float32).eps


def mixed_network():
    """Every kind of layer; "0" and "4" have matrices of equal shape, and so have "1" and "5" lying down."""
    return nn.Sequential(
        nn.Linear(12, 4),
        nn.Conv2d(3, 5, (2, 3)),
        nn.BatchNorm2d(5),
        nn.ConvTranspose2d(4, 6, 3, groups=2),
        nn.Conv1d(3, 4, 4),
        nn.Linear(5, 18),
        nn.ConvTranspose3d(2, 3, 2),
        nn.Conv1d(6, 6, 3, groups=3),
    )


WEIGHTS = ["0", "1", "3", "4", "5", "6", "7"]


def matrix(values, rows, cols, dtype=torch.float64, seed=0):
    """A matrix of these singular values, by numpy."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, len(values))))[0] for n in (rows, cols))
    return torch.tensor(u * values @ v.T, dtype=dtype)


@contextmanager
def unchanged(network):
    before, modes = state(network), [m.training for m in network.modules()]
    yield
    assert_states_equal(state(network), before)
    assert [m.training for m in network.modules()] == modes


# --- Networks


# float32: the values are rounded once at the end; torch and numpy measure the same float32 weights.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 4 * EPS), (torch.float32, 4 * EPS), (torch.float64, 1e-13)]
)
def test_plain_networks(dtype, tolerance):
    network = mixed_network().to(dtype)
    found = singular_values(network)
    assert list(found) == WEIGHTS
    for name, values in found.items():
        assert values.dtype == torch.promote_types(dtype, torch.float32)
        expected = numpy_singular_values(network.get_submodule(name))
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * expected[0])


@pytest.mark.parametrize(
    ("degree", "names", "factor", "training"),
    [(1, ["1", "3", "4"], 1.1, True), (7, ["1", "3", "4"], 1.1, False), (5, ["1", "4"], -1.0, True)],
)
def test_preconditioned_networks_before_and_after_the_polynomial(degree, names, factor, training):
    network = precondition(mixed_network().double(), degree, names, normalize_rest=False).train(training)
    for p in preconditioners(network).values():
        # An estimate that is off, as it is in training; after a large change of W by hand it may even turn negative.
        # g(W / -s) = -g(W / s) has the same values.
        p.u.mul_(factor)
    with unchanged(network):
        before, after = singular_values(network, after_polynomial=False), singular_values(network)
    for name in WEIGHTS:
        layer = network.get_submodule(name)
        np.testing.assert_allclose(after[name], numpy_singular_values(layer), rtol=0, atol=1e-13)
        if name in names:
            raw = numpy_singular_values(layer, original_weight(layer))
            np.testing.assert_allclose(before[name], raw / (abs(factor) * raw[0]), rtol=0, atol=1e-13)
        else:
            assert torch.equal(before[name], after[name])
        assert not after[name].requires_grad


def test_values_are_sorted_after_a_polynomial_that_is_not_monotone():
    # The degree-7 polynomial is 1.019 at its first maximum and below 1 behind it.
    layer = nn.Linear(8, 8).double()
    layer.weight.data.copy_(matrix(np.linspace(1, 0.3, 8), 8, 8))
    precondition(layer, 7, "all")
    values = singular_values(layer)["weight"]
    assert values[0] > 1
    np.testing.assert_allclose(values, numpy_singular_values(layer), rtol=0, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", SPECTRAL_NORMS)
def test_spectral_norms_of_torch_as_the_forward_uses_them(kind, training):
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 1)).double().train(training)
    for name in ("0", "2"):
        SPECTRAL_NORMS[kind](network.get_submodule(name))
    images = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    for _ in range(2):
        network(images).square().sum().backward()
        sgd(network).step()
    with unchanged(network):
        found = singular_values(network)
    # The weights as the forward in eval mode, which does not iterate, uses them.
    network.eval()(images)
    for name, values in found.items():
        np.testing.assert_allclose(values, numpy_singular_values(network.get_submodule(name)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("measure", [singular_values, condition_number, modified_condition_number])
def test_a_network_without_matrices_is_refused(measure):
    with pytest.raises(ValueError, match="`target` must hold a Linear, Conv or ConvTranspose layer, got ReLU"):
        measure(nn.ReLU())


@pytest.mark.parametrize(("value", "prepare"), [(math.nan, lambda network: precondition(network, 3)), (math.inf, iter)])
def test_weights_that_are_not_finite_are_named(value, prepare):
    network = mixed_network()
    prepare(network)
    original_weight(network[4]).data.view(-1)[5] = value
    with pytest.raises(ValueError, match="weight of layer '4' must be finite, got NaN or infinity"):
        singular_values(network)
    with pytest.raises(ValueError, match="weight of layer 'weight' must be finite"):
        singular_values(torch.tensor([[1.0, value]]))


@pytest.mark.parametrize(
    ("dtype", "function", "batches"),
    [
        # In eigvalsh: Gram matrices of the smaller side; in svdvals: matrices laid on their longer side.
        (torch.float32, "eigvalsh", [(2, 4, 4), (2, 5, 5), (2, 3, 3), (1, 3, 3), (3, 2, 2)]),
        (torch.float64, "svdvals", [(2, 4, 12), (2, 5, 18), (2, 3, 18), (1, 3, 16), (3, 2, 6)]),
    ],
)
def test_layers_of_equal_shape_are_one_batched_call(monkeypatch, dtype, function, batches):
    def spy(matrices):
        calls.append(tuple(matrices.shape))
        return original(matrices)

    calls, original = [], getattr(torch.linalg, function)
    monkeypatch.setattr(torch.linalg, function, spy)
    singular_values(precondition(mixed_network().to(dtype), 3))
    assert calls == batches


# --- Tensors


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((4, 7), torch.float32),
        ((7, 4), torch.float64),
        ((1, 5), torch.float64),
        ((5, 1), torch.float32),
        ((4, 3, 2, 2), torch.float32),
    ],
)
def test_tensors_are_flattened_to_rows(shape, dtype):
    weight = torch.randn(shape, dtype=dtype)
    expected = np.linalg.svd(weight.double().flatten(1), compute_uv=False)
    tolerance = (4 * EPS if dtype == torch.float32 else 1e-13) * expected[0]
    values = singular_values(weight)
    assert values.dtype == dtype
    np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance)
    assert condition_number(weight).shape == ()
    assert condition_number(weight).item() == pytest.approx(expected[0] / expected[-1], rel=1e-5)


@pytest.mark.parametrize(("rows", "cols", "smallest"), [(16, 16, 1e-6), (16, 400, 1e-3), (400, 16, 1e-6)])
def test_small_singular_values_of_float32_weights(rows, cols, smallest):
    # A float32 Gram matrix would be off by sqrt(eps) = 3e-4. Rounding the matrix moves the values by eps.
    weight = matrix(np.geomspace(1, smallest, 16), rows, cols, torch.float32)
    found = singular_values(weight)
    np.testing.assert_allclose(found, np.geomspace(1, smallest, 16), rtol=0, atol=4 * EPS)
    exact = np.linalg.svd(weight.double(), compute_uv=False)
    np.testing.assert_allclose(found, exact, rtol=0, atol=EPS)
    # float64's own error, 1e-16 / 1e-6, and one rounding of the result to float32.
    assert found[-1].item() == pytest.approx(exact[-1], rel=EPS, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_that_vanish_up_to_rounding(dtype):
    # Some eigenvalues of the Gram matrix come out as about -1e-16; their roots must not be NaN.
    for seed in range(5):
        values = singular_values(matrix([3.0, 2.0], 12, 9, dtype, seed))
        np.testing.assert_allclose(values, [3, 2] + 7 * [0], rtol=0, atol=3 * EPS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("measure", [condition_number, modified_condition_number])
def test_singular_matrices_are_infinitely_ill_conditioned(measure, dtype):
    weight = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=dtype))
    assert measure(weight) == math.inf
    assert measure(torch.zeros(3, 5, dtype=dtype)) == math.inf


# --- Condition numbers


@pytest.mark.parametrize(
    ("count", "smallest"),
    # ceil(m / 10)
    [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3), (31, 4), (70, 7), (100, 10), (101, 11)],
)
def test_the_modified_condition_number_averages_a_tenth(count, smallest):
    # A vector holds singular values. Of 1, 2, ..., m the mean of the k smallest is (k + 1) / 2.
    assert modified_condition_number(torch.arange(1.0, count + 1)).item() == pytest.approx(count / ((smallest + 1) / 2))


def test_one_zero_among_the_smallest_does_not_make_the_modified_number_infinite():
    values = torch.tensor([0.0, 1.0] + [6.0] * 18)
    assert modified_condition_number(values) == 12
    assert condition_number(values) == math.inf


@pytest.mark.parametrize("after_polynomial", [True, False])
@pytest.mark.parametrize("measure", [condition_number, modified_condition_number])
def test_condition_numbers_of_networks(measure, after_polynomial):
    network = precondition(mixed_network(), 7, ["0", "1"], normalize_rest=False)
    values = singular_values(network, after_polynomial=after_polynomial)
    assert measure(network, after_polynomial=after_polynomial) == {name: measure(v) for name, v in values.items()}
