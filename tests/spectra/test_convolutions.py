import math

import numpy as np
import pytest
import torch
from helpers.convolution_layouts import LAYOUTS, dense, layout_id, make
from torch import nn

from pcgan_lightning.spectra import (
    ConvolutionOperator,
    condition_number,
    convolution_norm,
    convolution_norm_bound,
    convolution_singular_values,
    extreme_singular_values,
    input_sizes,
    modified_condition_number,
    power_iterate,
    precondition,
    reshaped_norm_bound,
    singular_values,
)
from pcgan_lightning.spectra.convolutions import norms

EPS = torch.finfo(torch.float32).eps


def seeded(kind, *arguments, **settings):
    """A layer that is the same in every run."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return kind(*arguments, **settings, bias=False).double()


CIRCULAR = seeded(nn.Conv2d, 3, 4, 3, padding=1, padding_mode="circular")
STRIDED = seeded(nn.Conv2d, 3, 4, 4, stride=2, padding=1, padding_mode="circular")
GROUPED = seeded(nn.ConvTranspose1d, 4, 6, 3, stride=2, groups=2)
REFLECTED = seeded(nn.Conv2d, 2, 3, 3, padding=1, padding_mode="reflect")
ALL = {"circular": (CIRCULAR, (3, 4)), "strided": (STRIDED, (4, 2)), "grouped": (GROUPED, (5,))}
ALL |= {"reflected": (REFLECTED, (4, 5))}


def test_there_are_enough_layouts():
    assert len(LAYOUTS) >= 60


@pytest.mark.parametrize("layout", LAYOUTS, ids=layout_id)
def test_every_layout_against_the_matrix_of_the_layer_itself(layout, monkeypatch):
    """Values and norms to 1e-9; bounds never below, and the certified one at most 5% above."""
    layer, size = make(layout)
    expected = np.linalg.svd(dense(layer, size), compute_uv=False)
    operator, weight = ConvolutionOperator.of_layer(layer, size), layer.weight.detach()
    found = convolution_singular_values(weight, operator)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    assert convolution_norm(weight, operator).item() == pytest.approx(expected[0], abs=1e-9)
    assert expected[0] <= convolution_norm_bound(weight, operator).item() <= 1.05 * expected[0]
    assert expected[0] <= reshaped_norm_bound(weight, operator).item() * (1 + 1e-12)
    # Large operators are bounded by a circular one around them, and their norm is found by iteration.
    torus, factor = operator.enclosing()
    assert torus.is_circular
    assert expected[0] <= factor * convolution_norm(weight, torus).item() * (1 + 1e-12)
    monkeypatch.setattr(norms, "SMALL", 0)
    assert convolution_norm(weight, operator).item() == pytest.approx(expected[0], abs=1e-9)


def test_the_fourier_transform_is_what_finds_circular_spectra(monkeypatch):
    """Without it, the test above would compare a matrix with itself."""
    monkeypatch.setattr(ConvolutionOperator, "dense", None)
    circular = [layout for layout in LAYOUTS if layout[2].get("padding_mode") == "circular"]
    operators = [ConvolutionOperator.of_layer(*make(layout)) for layout in circular]
    assert sum(operator.is_circular for operator in operators) >= 12
    for layout, operator in zip(circular, operators, strict=True):
        if operator.is_circular:
            convolution_singular_values(make(layout)[0].weight, operator)


# float32: the values of float32 weights are rounded once at the end.
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_of_low_precision(dtype):
    operator, weight = ConvolutionOperator.of_layer(CIRCULAR, (6, 5)), CIRCULAR.weight.detach().to(dtype)
    found = convolution_singular_values(weight, operator)
    expected = np.linalg.svd(operator.dense(weight.double()), compute_uv=False)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=4 * EPS * expected[0])
    assert convolution_norm(weight, operator).dtype == torch.float32
    assert expected[0] <= convolution_norm_bound(weight, operator).item()


def test_a_kernel_of_ones():
    """Closed form: the mean image comes out 9 times as large, and a pattern of period 3 not at all."""
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="circular", bias=False)
    nn.init.ones_(layer.weight)
    values = singular_values(layer, view="operator", input_shape=(1, 6, 6))["weight"]
    assert values[0].item() == pytest.approx(9)
    assert values[-1].item() == pytest.approx(0, abs=1e-6)
    assert singular_values(layer)["weight"].tolist() == pytest.approx([3])
    assert reshaped_norm_bound(layer.weight, ConvolutionOperator.of_layer(layer, (6, 6))).item() == pytest.approx(9)


def check_bounds(seeds):
    layers = LAYOUTS[:: len(LAYOUTS) // 20]
    for seed in seeds:
        layer, size = make(layers[seed % len(layers)], seed)
        layer.weight.data *= 10.0 ** (seed % 7 - 3)
        # Of these, one in three has low rank, and one in three a steep spectrum.
        if seed % 3:
            layer.weight.data[: len(layer.weight) // 2] *= 0.0 if seed % 3 == 1 else 1e-3
        operator = ConvolutionOperator.of_layer(layer, size)
        exact = np.linalg.norm(dense(layer, size), 2)
        for weight in (layer.weight.detach(), layer.weight.detach().float()):
            # Rounded to float32, a weight may have a norm that much larger.
            slack = 1 if weight.dtype == torch.float64 else 1 - EPS
            assert slack * exact <= convolution_norm_bound(weight, operator).item() <= 1.05 * exact


def test_the_bound_of_random_kernels():
    check_bounds(range(40))


@pytest.mark.slow
def test_the_bound_of_a_thousand_random_kernels():
    check_bounds(range(1000))


@pytest.mark.parametrize("iterations", [1, 2, 8])
def test_the_bound_tightens_with_its_iterations(iterations):
    operator, weight = ConvolutionOperator.of_layer(CIRCULAR, (6, 5)), CIRCULAR.weight.detach()
    exact = convolution_norm(weight, operator).item()
    bound = convolution_norm_bound(weight, operator, iterations).item()
    assert exact <= bound <= 3 ** (0.5 / 2**iterations) * exact * (1 + 1e-12)


def test_zero_weights_have_a_bound():
    operator = ConvolutionOperator.of_layer(CIRCULAR, (6, 5))
    assert convolution_norm_bound(torch.zeros_like(CIRCULAR.weight), operator).item() == pytest.approx(0, abs=1e-100)


@pytest.mark.parametrize("factor", [2.0**100, 2.0**-100])
@pytest.mark.parametrize("layer", [CIRCULAR, nn.Conv2d(2, 3, 3, padding=1)])
def test_the_bound_of_large_and_small_weights_is_in_proportion(layer, factor):
    """Powers of two change no digit of float32; the squares of these would be infinite or 0."""
    operator, weight = ConvolutionOperator.of_layer(layer, (6, 5)), layer.weight.detach().float()
    bound = convolution_norm_bound(weight, operator).item()
    assert 0 < bound < math.inf
    assert convolution_norm_bound(factor * weight, operator).item() == factor * bound


# --- Gradients


@pytest.mark.parametrize("function", [convolution_norm, convolution_norm_bound, reshaped_norm_bound])
@pytest.mark.parametrize("name", ALL)
def test_gradients_are_those_of_finite_differences(name, function):
    layer, size = ALL[name]
    operator = ConvolutionOperator.of_layer(layer, size)
    assert torch.autograd.gradcheck(lambda w: function(w, operator), layer.weight.detach().requires_grad_())


@pytest.mark.parametrize("name", ALL)
def test_the_gradient_of_the_norm_is_u_v_mapped_through_the_convolution(name, monkeypatch):
    layer, size = ALL[name]
    operator, weight = ConvolutionOperator.of_layer(layer, size), layer.weight.detach().requires_grad_()
    u, _, vt = np.linalg.svd(operator.dense(weight.detach()))
    outer = torch.from_numpy(np.outer(u[:, 0], vt[0]))
    variable = weight.detach().clone().requires_grad_()
    (operator.dense(variable) * outer).sum().backward()
    torch.testing.assert_close(torch.autograd.grad(convolution_norm(weight, operator), weight)[0], variable.grad)
    monkeypatch.setattr(norms, "SMALL", 0)  # by Lanczos' method
    torch.testing.assert_close(
        torch.autograd.grad(convolution_norm(weight, operator), weight)[0], variable.grad, rtol=0, atol=1e-6
    )


# --- Iteration


@pytest.mark.parametrize("name", ALL)
def test_power_iteration_by_feature_maps(name):
    layer, size = ALL[name]
    operator, weight = ConvolutionOperator.of_layer(layer, size), layer.weight.detach()
    matrix = operator.dense(weight).numpy()
    v = norms.random_images(weight, operator)
    u, again, sigma = power_iterate(weight, operator, v)
    for group in range(operator.groups):  # each by itself, as a block of the matrix
        rows = np.split(np.arange(len(matrix)), operator.groups)[group]
        cols = np.split(np.arange(matrix.shape[1]), operator.groups)[group]
        expected = matrix[np.ix_(rows, cols)] @ v.flatten().numpy()[cols]
        expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(u.flatten()[rows], expected, atol=1e-12)
    exact = np.linalg.norm(matrix, 2)
    assert sigma.item() <= exact
    _, _, sigma = power_iterate(weight, operator, again, 300)
    assert sigma.item() == pytest.approx(exact, rel=1e-2)


def test_extreme_values_of_a_large_operator(monkeypatch):
    layer = nn.Conv2d(3, 2, 3, padding=1, bias=False).double()
    operator = ConvolutionOperator.of_layer(layer, (5, 5))
    expected = np.linalg.svd(dense(layer, (5, 5)), compute_uv=False)
    assert extreme_singular_values(layer.weight, operator) == pytest.approx((expected[0], expected[-1]), abs=1e-9)
    monkeypatch.setattr(norms, "SMALL", 0)
    assert extreme_singular_values(layer.weight, operator) == pytest.approx((expected[0], expected[-1]), abs=1e-9)


# --- Networks


def network():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 4, stride=2, padding=1, groups=2),
        nn.Flatten(),
        nn.Linear(54, 2),
    ).double()


@pytest.mark.parametrize("after_polynomial", [True, False])
def test_condition_numbers_of_networks_as_operators(after_polynomial):
    model, shape = precondition(network(), 3), (3, 6, 6)
    before = {name: value.clone() for name, value in model.state_dict().items() if value.numel()}
    for measure in (singular_values, condition_number, modified_condition_number):
        assert list(measure(model, after_polynomial, "operator", shape)) == ["0", "3", "5"]
    values = singular_values(model, after_polynomial, "operator", shape)
    sizes = {"0": (6, 6), "3": (6, 6)}
    for name, size in sizes.items():
        layer = model[int(name)]
        plain = nn.Conv2d(layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
                          groups=layer.groups, bias=False, padding_mode=layer.padding_mode).double()  # fmt: skip
        plain.weight.data.copy_(layer.weight if after_polynomial else layer.parametrizations.weight.original)
        expected = np.linalg.svd(dense(plain, size), compute_uv=False)
        if not after_polynomial:
            expected = expected / np.linalg.norm(plain.weight.detach().unflatten(0, (layer.groups, -1)).flatten(2),
                                                 2, axis=(1, 2)).max()  # fmt: skip
        np.testing.assert_allclose(values[name], expected, atol=1e-9)
    assert values["5"].tolist() == pytest.approx(singular_values(model, after_polynomial)["5"].tolist())
    assert singular_values(model, after_polynomial, "operator", sizes)["3"].equal(values["3"])
    smallest = math.ceil(len(values["0"]) / 10)
    expected = values["0"][0] / values["0"][-smallest:].mean()
    assert modified_condition_number(model, after_polynomial, "operator", shape)["0"] == expected
    assert model.training
    after = model.state_dict()
    assert all(value.equal(after[name]) for name, value in before.items())


def test_sizes_of_a_layer_that_is_met_twice():
    layer = nn.Conv1d(1, 1, 3)
    assert input_sizes(nn.Sequential(layer, layer), torch.zeros(1, 1, 9)) == {"0": (9,)}


def test_a_large_operator_is_seen_as_circular():
    layer = nn.Conv2d(2, 2, 3, stride=2, padding=1)
    values = singular_values(layer, view="operator", input_shape=(2, 65, 65))["weight"]
    operator = ConvolutionOperator.of_layer(layer, (65, 65)).circular()
    assert operator.image_size == (66, 66)
    assert values.equal(convolution_singular_values(layer.weight, operator))


# --- Mistakes


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ConvolutionOperator.of_layer(nn.Linear(2, 2), (4, 4)),
         "argument `layer` must be a convolution, got Linear"),
        (lambda: ConvolutionOperator.of_layer(nn.Conv2d(1, 1, 5), (4, 4)),
         r"argument `input_size` must be one that Conv2d\(1, 1, .* can take, got \(4, 4\)"),
        (lambda: ConvolutionOperator.of_layer(nn.Conv2d(1, 1, 3), (4,)), r"`input_size` must be one .* got \(4,\)"),
        (lambda: ConvolutionOperator.of_layer(nn.Conv2d(1, 1, 9, padding=4, padding_mode="reflect"), (4, 4)),
         "`input_size` must be one that"),
        (lambda: ConvolutionOperator.of_layer(nn.ConvTranspose1d(1, 1, 2, padding=4), (2,)),
         "`input_size` must be one that"),
        (lambda: convolution_singular_values(torch.ones(64, 64, 3, 3),
                                             ConvolutionOperator.of_layer(nn.Conv2d(64, 64, 3), (32, 32))),
         r"512 rows or columns and 8,388,608 entries, got \(57600, 65536\); take"),
        (lambda: convolution_norm_bound(CIRCULAR.weight, ConvolutionOperator.of_layer(CIRCULAR, (6, 5)), 0),
         "argument `iterations` must be at least 1, got 0"),
        (lambda: convolution_norm_bound(math.nan * CIRCULAR.weight, ConvolutionOperator.of_layer(CIRCULAR, (6, 5))),
         "argument `weight` must hold finite numbers, got some that are not"),
        (lambda: singular_values(network(), view="operator"),
         r"argument `input_shape` must be given where convolutions are operators, .* got None for Sequential"),
        (lambda: singular_values(network(), view="operator", input_shape=(3, 7, 7, 7)),
         r"argument `input_shape` must be one that Sequential can take, got \(3, 7, 7, 7\): "),
        (lambda: singular_values(network(), view="operator", input_shape={"0": (6, 6)}),
         r"argument `input_shape` must lead to a size for every convolution, got none for \['3'\]"),
        (lambda: singular_values(network(), view="image"), "argument `view` must be one of matrix, operator, got"),
        (lambda: singular_values(torch.ones(2, 2, 1, 1), view="operator"),
         "argument `target` must be a network or a layer for view='operator', got a tensor"),
        (lambda: precondition(network(), 1, norm="operator"),
         "argument `input_shape` must be given where convolutions are operators"),
        (lambda: precondition(network(), 1, norm="image"), "argument `norm` must be one of matrix, operator, got"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_a_matrix_with_few_rows_is_made_from_them():
    layer = nn.Conv2d(4096, 1, 4)  # 65,536 columns: 16 GiB of images of one pixel
    operator = ConvolutionOperator.of_layer(layer, (4, 4))
    torch.testing.assert_close(operator.dense(layer.weight), layer.weight.flatten(1))
