"""The PC-layer alone: its values, precision and derivatives."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers.preconditioned import (
    IMAGES,
    LAYERS,
    assert_states_equal,
    assert_vectors_equal,
    discriminator,
    input_shape,
    iterated,
    numpy_matrices,
    numpy_singular_values,
    sgd,
    state,
    vectors,
)
from torch import nn
from torch.nn.utils import parametrizations

from pcgan_lightning.spectra import (
    Preconditioner,
    as_polynomial,
    fit_polynomial,
    original_weight,
    precondition,
    preconditioners,
)
from pcgan_lightning.spectra.matrices import MatrixLayout

DEGREES = [1, 3, 5, 7, 9]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def g(degree, x):
    """A polynomial (tested on its own), by numpy."""
    return sum(c * x ** (2 * t + 1) for t, c in enumerate(as_polynomial(degree).coefficients))


def operator_values(layer):
    """Singular values of a layer as a linear operator: its outputs at the unit vectors are the columns."""
    shape = input_shape(layer)
    basis = torch.eye(math.prod(shape), dtype=layer.weight.dtype)
    outputs = layer(basis.view(-1, *shape)).flatten(1)
    return np.linalg.svd(outputs.T.detach().double().numpy(), compute_uv=False)


def pc_layer(layer, degree=1):
    return preconditioners(precondition(layer, degree, "all"))["weight"]


# Every layer with one degree and dtype, and all pairs of these; then a polynomial of our own.
@pytest.mark.parametrize(
    ("kind", "degree", "dtype"),
    [
        *((kind, DEGREES[n % 5], list(TOLERANCE)[n % 2]) for n, kind in enumerate(LAYERS)),
        ("conv2d", fit_polynomial(0.5, 11), torch.float64),
        *((kind, 17, torch.float64) for kind in LAYERS),
    ],
)
def test_singular_values_become_g_of_them(kind, degree, dtype):
    layer = LAYERS[kind]().to(dtype)
    before = operator_values(layer)
    after = operator_values(precondition(layer, degree, "all"))
    # u and v start as the exact singular vectors, and these g are positive on (0, 1].
    tolerance = 1e-11 if degree == 17 else TOLERANCE[dtype]
    np.testing.assert_allclose(after, np.sort(g(degree, before / before[0]))[::-1], rtol=0, atol=tolerance)
    assert layer.weight.dtype == dtype


@pytest.mark.parametrize("kind", ["wide linear", "tall linear", "grouped conv2d", "grouped transposed2d"])
def test_the_estimate_is_the_largest_u_w_v(kind):
    layer = LAYERS[kind]().double()
    before, blocks = numpy_singular_values(layer), numpy_matrices(layer)
    p = pc_layer(layer, 3)
    p.u.add_(0.1 * torch.randn_like(p.u))
    estimate = max(u @ m @ v for u, m, v in zip(p.u.numpy(), blocks, p.v.numpy(), strict=True))
    assert abs(estimate / before[0] - 1) > 0.01
    expected = np.sort(np.abs(g(3, before / estimate)))[::-1]
    np.testing.assert_allclose(operator_values(layer), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "dtype"), [("wide linear", torch.float16), ("tall transposed2d", torch.bfloat16)])
def test_half_precision_weights_are_computed_in_float32(kind, dtype):
    layer = LAYERS[kind]().to(dtype)
    exact = copy.deepcopy(layer).double()
    assert pc_layer(layer, 9).u.dtype == torch.float32
    pc_layer(exact, 9)
    assert layer.weight.dtype == dtype
    # One rounding to half precision, on top of the error of float32.
    torch.testing.assert_close(
        layer.weight.double(), exact.weight, rtol=torch.finfo(dtype).eps / 2, atol=TOLERANCE[torch.float32]
    )


@pytest.mark.parametrize("kind", ["wide linear", "tall conv2d", "grouped transposed2d"])
def test_autocast_leaves_the_effective_weight_alone(kind):
    layer = precondition(LAYERS[kind](), 9, "all")
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)
        assert layer(torch.ones(1, *input_shape(layer))).dtype == torch.bfloat16  # autocast is on
    assert layer.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)],
)
def test_conversions_keep_the_vectors_in_float32_at_least(dtype, kept):
    layer = precondition(nn.Conv2d(16, 32, 3), 3)
    before = vectors(layer)
    layer.to(dtype)
    p = preconditioners(layer)["weight"]
    assert original_weight(layer).dtype == layer.weight.dtype == dtype
    assert p.u.dtype == p.v.dtype == kept
    # Not by way of half precision, whose rounding would stay.
    assert_vectors_equal(vectors(layer), before)


def test_a_converted_network_trains():
    layer = precondition(nn.Linear(4, 4), 3, "all").bfloat16()
    start = vectors(layer)
    layer(torch.ones(2, 4, dtype=torch.bfloat16)).sum().backward()
    sgd(layer).step()
    assert_vectors_equal(vectors(layer), {"weight": iterated(layer, start["weight"])}, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "degree"),
    [
        (nn.Linear(3, 2), 5),
        (nn.Linear(2, 3), 9),
        (nn.Conv1d(2, 2, 2), 1),
        (nn.ConvTranspose1d(2, 2, 2), 3),
        (nn.Conv1d(2, 4, 2, groups=2), 7),
        (nn.ConvTranspose1d(4, 2, 1, groups=2), 5),
        (nn.Linear(2, 3), 17),
        (nn.Linear(3, 2), 15),
    ],
)
def test_first_and_second_derivatives(layer, degree):
    weight = layer.weight.detach().double()
    p = Preconditioner(weight, MatrixLayout.of_layer(layer), as_polynomial(degree))
    # Off the exact singular vectors, where d(u^T W v) = d(sigma) would hide a gradient through u and v.
    weight = (weight + 0.1 * torch.randn_like(weight)).requires_grad_()
    assert torch.autograd.gradcheck(p, weight)
    assert torch.autograd.gradgradcheck(p, weight)


@pytest.mark.parametrize("kind", ["wide linear", "tall linear", "conv2d", "transposed2d"])
def test_degree_1_is_the_spectral_norm_of_torch(kind):
    ours = LAYERS[kind]().double()
    theirs = parametrizations.spectral_norm(copy.deepcopy(ours)).eval()
    p, reference = pc_layer(ours), theirs.parametrizations.weight[0]
    p.u[0], p.v[0] = reference._u, reference._v
    optimizers = [sgd(layer) for layer in (ours, theirs)]
    for _ in range(3):
        cotangent = torch.randn_like(ours.weight)
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
        for layer in (ours, theirs):
            layer.zero_grad()
            (cotangent * layer.weight).sum().backward()
        torch.testing.assert_close(original_weight(ours).grad, original_weight(theirs).grad, rtol=0, atol=1e-12)
        for optimizer in optimizers:
            optimizer.step()
        # Torch iterates in the first forward in training mode after the update.
        theirs.train()(torch.zeros(1, *input_shape(theirs), dtype=torch.float64))
        theirs.eval()
        torch.testing.assert_close(p.u[0], reference._u, rtol=0, atol=1e-12)
        torch.testing.assert_close(p.v[0], reference._v, rtol=0, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_change_nothing(training):
    network = precondition(discriminator(), 5).train(training)
    before = state(network)
    first, second = network(IMAGES), network(IMAGES)
    first.sum().backward()
    assert torch.equal(first, second)
    assert torch.equal(first, network.train(not training)(IMAGES))
    assert_states_equal(state(network), before)
