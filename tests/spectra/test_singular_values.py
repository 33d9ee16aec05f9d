import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, spectral_norm

from pcgan_lightning.spectra import (
    as_polynomial,
    condition_number,
    modified_condition_number,
    precondition,
    preconditioners,
    singular_values,
)

EPS = torch.finfo(torch.float32).eps
SPECTRAL_NORMS = {"parametrization": parametrizations.spectral_norm, "hook": spectral_norm}


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


def numpy_singular_values(layer, weight=None):
    """By numpy, block by block; a transposed convolution stores its inputs first."""
    weight = (layer.weight if weight is None else weight).detach().double().numpy()
    blocks = np.split(weight, getattr(layer, "groups", 1))
    if isinstance(layer, nn.ConvTranspose2d | nn.ConvTranspose3d):
        blocks = [block.swapaxes(0, 1) for block in blocks]
    values = [np.linalg.svd(block.reshape(len(block), -1), compute_uv=False) for block in blocks]
    return np.sort(np.concatenate(values))[::-1]


def matrix(values, rows, cols, dtype=torch.float64, seed=0):
    """A matrix of these singular values, by numpy."""
    rng = np.random.default_rng(seed)
    u, v = (np.linalg.qr(rng.normal(size=(n, len(values))))[0] for n in (rows, cols))
    return torch.tensor(u * values @ v.T, dtype=dtype)


def state(network):
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_states_equal(first, second):
    assert list(first) == list(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


# --- Networks


# float32: the values are rounded once at the end; torch and numpy measure the same float32 weights.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 4 * EPS), (torch.float64, 1e-13)])
def test_plain_networks(dtype, tolerance):
    network = mixed_network().to(dtype)
    found = singular_values(network)
    assert list(found) == WEIGHTS
    for name, values in found.items():
        assert values.dtype == dtype
        expected = numpy_singular_values(network.get_submodule(name))
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * expected[0])


@pytest.mark.parametrize("degree", [1, 7])
def test_preconditioned_networks_before_and_after_the_polynomial(degree):
    network = precondition(mixed_network().double(), degree, ["1", "3", "4"], normalize_rest=False)
    for p in preconditioners(network).values():
        p.u.mul_(1.1)  # an estimate that is off, as it is in training
    before, after = singular_values(network, after_polynomial=False), singular_values(network)
    for name in WEIGHTS:
        layer = network.get_submodule(name)
        np.testing.assert_allclose(after[name], numpy_singular_values(layer), rtol=0, atol=1e-13)
        p = preconditioners(network).get(name)
        if p is None:
            assert torch.equal(before[name], after[name])
        else:
            weight = layer.parametrizations.weight.original
            raw = numpy_singular_values(layer, weight)
            # The exact vectors gave sigma_max, and u is a tenth too long.
            np.testing.assert_allclose(before[name], raw / (1.1 * raw[0]), rtol=0, atol=1e-13)


def test_values_are_sorted_after_a_polynomial_that_is_not_monotone():
    # The degree-7 polynomial is 1.019 at its first maximum and below 1 behind it.
    layer = nn.Linear(8, 8).double()
    layer.weight.data.copy_(matrix(np.linspace(1, 0.3, 8), 8, 8))
    precondition(layer, 7, "all")
    values = singular_values(layer)["weight"]
    assert values[0] > 1
    np.testing.assert_allclose(values, numpy_singular_values(layer), rtol=0, atol=1e-13)


def test_an_estimate_below_zero():
    # u^T W v may turn negative after a large change of W by hand; g(W / -s) = -g(W / s) has the same values.
    layer = precondition(nn.Linear(6, 4).double(), 5, "all")
    before = singular_values(layer, after_polynomial=False)["weight"]
    preconditioners(layer)["weight"].u.neg_()
    after = singular_values(layer)["weight"]
    np.testing.assert_allclose(after, numpy_singular_values(layer), rtol=0, atol=1e-13)
    np.testing.assert_allclose(singular_values(layer, after_polynomial=False)["weight"], before, rtol=0, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", SPECTRAL_NORMS)
def test_spectral_norms_of_torch_as_the_forward_uses_them(kind, training):
    network = nn.Sequential(nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(16, 1)).double().train(training)
    for name in ("0", "2"):
        SPECTRAL_NORMS[kind](network.get_submodule(name))
    images = torch.randn(2, 3, 3, 3, dtype=torch.float64)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    for _ in range(2):
        network(images).square().sum().backward()
        optimizer.step()
    before, modes = state(network), [m.training for m in network.modules()]
    found = singular_values(network)
    # Neither u and v nor the modes may have moved.
    assert_states_equal(state(network), before)
    assert [m.training for m in network.modules()] == modes
    # Afterwards the weights as the forward in eval mode, which does not iterate, uses them.
    network.eval()(images)
    for name, values in found.items():
        np.testing.assert_allclose(values, numpy_singular_values(network.get_submodule(name)), rtol=0, atol=1e-13)


@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing(training):
    network = precondition(mixed_network(), 3, ["0", "1"], normalize_rest=False).train(training)
    before, modes = state(network), [m.training for m in network.modules()]
    for measure in (singular_values, condition_number, modified_condition_number):
        assert not any(values.requires_grad for values in measure(network).values())
        measure(network, after_polynomial=False)
    assert_states_equal(state(network), before)
    assert [m.training for m in network.modules()] == modes


def test_half_precision_networks_are_measured_in_float32():
    network = precondition(mixed_network().bfloat16(), 3, ["0"], normalize_rest=False)
    for name, values in singular_values(network).items():
        assert values.dtype == torch.float32
        expected = numpy_singular_values(network.get_submodule(name))
        # The weight of layer "0" is rounded to bfloat16 after the polynomial: sqrt(48) entries of 2^-9 |w|.
        tolerance = 2**-9 if name == "0" else 4 * EPS
        np.testing.assert_allclose(values, expected, rtol=0, atol=tolerance * expected[0])


def test_one_layer_is_called_weight():
    layer = nn.Linear(3, 2)
    assert torch.equal(singular_values(layer)["weight"], singular_values(layer.weight))


@pytest.mark.parametrize("measure", [singular_values, condition_number, modified_condition_number])
def test_a_network_without_matrices_is_refused(measure):
    with pytest.raises(ValueError, match="`target` must hold a Linear, Conv or ConvTranspose layer, got ReLU"):
        measure(nn.ReLU())


@pytest.mark.parametrize(("value", "preconditioned"), [(math.nan, True), (math.inf, False)])
def test_weights_that_are_not_finite_are_named(value, preconditioned):
    network = mixed_network()
    if preconditioned:
        precondition(network, 3, "all")
    dict(network[4].named_parameters())["parametrizations.weight.original" if preconditioned else "weight"].data.view(
        -1
    )[5] = value
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


def test_vectors_hold_singular_values():
    values = torch.tensor([0.5, 4.0, 1.0])
    assert singular_values(values).tolist() == [4.0, 1.0, 0.5]
    assert condition_number(values) == 8
    assert modified_condition_number(values) == 8


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
    layer = nn.Linear(4, 4).to(dtype)
    layer.weight.data.copy_(weight)
    assert measure(layer) == {"weight": torch.tensor(math.inf)}
    assert measure(precondition(layer, 5, "all")) == {"weight": torch.tensor(math.inf)}


# --- Condition numbers


@pytest.mark.parametrize(
    ("count", "smallest"),
    # ceil(m / 10)
    [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3), (30, 3), (31, 4), (70, 7), (100, 10), (101, 11)],
)
def test_the_modified_condition_number_averages_a_tenth(count, smallest):
    # Values 1, 2, ..., m: the mean of the k smallest is (k + 1) / 2.
    values = torch.arange(1, count + 1, dtype=torch.float64)
    assert modified_condition_number(values) == count / ((smallest + 1) / 2)
    assert modified_condition_number(torch.diag(values)).item() == pytest.approx(
        count / ((smallest + 1) / 2), rel=1e-13
    )


def test_one_zero_among_the_smallest_does_not_make_the_modified_number_infinite():
    values = torch.tensor([0.0, 1.0] + [6.0] * 18)
    assert modified_condition_number(values) == 12
    assert condition_number(values) == math.inf


@pytest.mark.parametrize(
    ("measure", "tenth", "after_polynomial"),
    [
        (condition_number, False, True),
        (modified_condition_number, True, True),
        (modified_condition_number, True, False),
    ],
)
def test_condition_numbers_of_networks(measure, tenth, after_polynomial):
    network = nn.Sequential(nn.Linear(40, 30), nn.Conv2d(5, 12, 3), nn.Conv1d(16, 64, 3, groups=4), nn.Linear(9, 4))
    precondition(network.double(), 7, ["0", "2"], normalize_rest=False)
    found = measure(network, after_polynomial=after_polynomial)
    assert list(found) == ["0", "1", "2", "3"]
    counts = {"0": 3, "1": 2, "2": 5, "3": 1}  # of 30, 12, 48 and 4 values
    for name, number in found.items():
        layer = network.get_submodule(name)
        if name in ("0", "2"):
            values = numpy_singular_values(layer, layer.parametrizations.weight.original)
            values = values / values[0]
            if after_polynomial:
                coefficients = as_polynomial(7).coefficients
                values = np.sort(sum(c * values ** (2 * t + 1) for t, c in enumerate(coefficients)))[::-1]
        else:
            values = numpy_singular_values(layer)
        expected = values[0] / values[-counts[name] if tenth else -1 :].mean()
        assert number.shape == ()
        assert number.item() == pytest.approx(expected, rel=1e-10)
