import copy
import math

import numpy as np
import pytest
import torch
from helpers.convolution_layouts import dense
from helpers.preconditioned import assert_states_equal, sgd, state
from torch import nn

from pcgan_lightning.networks import CNNDiscriminator, ResNetDiscriminator
from pcgan_lightning.spectra import (
    lipschitz_bound,
    match_preconditioning,
    original_weight,
    power_iteration,
    precondition,
    preconditioners,
    remove_preconditioning,
    singular_values,
)

SHAPE = (2, 6, 6)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.LeakyReLU(0.1),
        nn.Conv2d(4, 4, 4, stride=2, padding=1, groups=2),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 2, 3),
        nn.Flatten(),
        nn.Linear(50, 1),
    ).double()


SIZES = {"0": (6, 6), "2": (6, 6), "4": (3, 3)}


def plain(layer, weight):
    """The layer as it is without a parametrization and a bias, with this weight."""
    copied = copy.deepcopy(layer)
    remove_preconditioning(copied)
    copied.weight.data.copy_(weight)
    copied.bias = None
    return copied


def train(model, steps):
    optimizer = sgd(model)
    for step in range(steps):
        torch.manual_seed(step)
        optimizer.zero_grad()
        model(torch.randn(3, *SHAPE, dtype=torch.float64)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("held", [False, True])
def test_convolutions_have_the_norm_one_as_operators_and_keep_it_in_training(held):
    model = precondition(network(), 1, norm="operator", input_shape=SHAPE, hold_norm=held)
    assert preconditioners(model)["6"].u.shape == (1, 1)  # a linear layer is a matrix
    for steps in (0, 20):
        train(model, steps)
        if steps:  # which are too fast here to be followed closely
            power_iteration(model, 100)
        for name, size in SIZES.items():
            layer = model[int(name)]
            assert np.linalg.norm(dense(plain(layer, layer.weight), size), 2) == pytest.approx(1, rel=2e-2)
    assert all(
        v[0].item() == pytest.approx(1, rel=2e-2) for v in singular_values(model, False, "operator", SHAPE).values()
    )


@pytest.mark.parametrize("held", [False, True])
def test_gradients_through_the_norm_or_past_it(held):
    """Against u^T W v written out: d(W / sigma) of a constant sigma has no second term."""
    layer = nn.Conv2d(2, 3, 3, padding=1, bias=False).double()
    precondition(layer, 1, norm="operator", input_shape=SHAPE, hold_norm=held)
    pc_layer = preconditioners(layer)["weight"]
    weight = original_weight(layer).detach().clone().requires_grad_()
    sigma = (nn.functional.conv2d(pc_layer.v[None], weight, padding=1)[0] * pc_layer.u).sum()
    images = torch.randn(2, *SHAPE, dtype=torch.float64)
    nn.functional.conv2d(images, weight / (sigma.detach() if held else sigma), padding=1).square().sum().backward()
    layer(images).square().sum().backward()
    torch.testing.assert_close(original_weight(layer).grad, weight.grad)


def test_a_polynomial_acts_on_the_matrix_as_before():
    model = precondition(network(), 5, norm="operator", input_shape=SHAPE)
    before = singular_values(model, after_polynomial=False)
    polynomial = preconditioners(model)["0"].polynomial
    expected = polynomial(before["0"]).abs().sort(descending=True).values
    assert before["0"][0] < 1
    torch.testing.assert_close(singular_values(model)["0"], expected)


def test_a_resumed_training_is_the_uninterrupted_one():
    direct = precondition(network(), 3, norm="operator", input_shape=SHAPE, hold_norm=True)
    train(direct, 2)
    saved = copy.deepcopy(direct.state_dict())
    resumed = network()
    match_preconditioning(resumed, saved)
    resumed.load_state_dict(saved)
    assert preconditioners(resumed)["0"].held
    for model in (direct, resumed):
        train(model, 3)
    assert_states_equal(state(direct), state(resumed))


def test_from_one_norm_to_the_other_and_off():
    model = network()
    parameters = list(map(id, model.parameters()))
    precondition(model, 3)
    precondition(model, 3, norm="operator", input_shape=SIZES)
    vectors = preconditioners(model)["0"].v
    precondition(model, 1, norm="operator", input_shape=SIZES, hold_norm=True)
    assert preconditioners(model)["0"].v is vectors
    assert preconditioners(model)["0"].held
    precondition(model, 3)
    assert preconditioners(model)["0"].v.ndim == 2
    assert sorted(parameters) == sorted(map(id, remove_preconditioning(model).parameters()))


def test_copies_and_half_precision_keep_their_vectors():
    model = copy.deepcopy(precondition(network().float(), 1, norm="operator", input_shape=SHAPE))
    train(model.double(), 1)
    pc_layer = preconditioners(model.bfloat16())["0"]
    assert {t.dtype for t in (pc_layer.u, pc_layer.v, pc_layer.gradient)} == {torch.float64}


# --- Lipschitz bounds


def measured(model, shape):
    """The norm of the Jacobian at a point."""
    images = torch.randn(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: model(x).flatten(), images)
    return torch.linalg.matrix_norm(jacobian.flatten(1), 2).item()


def test_the_lipschitz_bound_of_a_chain_is_the_product_of_norms():
    model = network()
    expected = math.prod(
        np.linalg.norm(dense(plain(model[int(n)], model[int(n)].weight), s), 2) for n, s in SIZES.items()
    )
    expected *= np.linalg.norm(model[6].weight.detach(), 2)
    found = lipschitz_bound(model, SHAPE)
    assert found.unknown == ()
    assert expected <= found.value <= 1.05**4 * expected
    precondition(model, 1, norm="operator", input_shape=SHAPE)
    assert lipschitz_bound(model, SHAPE).value == pytest.approx(1, rel=0.25)
    assert measured(model.eval(), SHAPE) <= lipschitz_bound(model, SHAPE).value


@pytest.mark.parametrize(
    "build",
    [
        lambda: CNNDiscriminator(8, 1, width=2),
        pytest.param(lambda: ResNetDiscriminator(width=4), marks=pytest.mark.slow),
    ],
)
def test_lipschitz_bounds_of_this_packages_networks_are_certified(build):
    model = build().double().eval()
    found = lipschitz_bound(model, model.image_shape)
    assert found.unknown == ()
    assert measured(model, model.image_shape) <= found.value < math.inf


class Block(nn.Module):
    def forward(self, x):
        y = nn.functional.avg_pool2d(x, 2) * 3 + nn.functional.max_pool2d(x, 2)
        return torch.cat([y, nn.functional.interpolate(y, scale_factor=1.0)], 1).sum((2, 3)).mean(1)


def test_sums_pools_and_branches():
    """Closed form: (3/2 + 1) twice side by side, the sum of 9 positions, the mean of 4 channels."""
    model = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), Block())
    nn.init.dirac_(model[0].weight)
    found = lipschitz_bound(model, SHAPE)
    assert found.value >= 2.5 * math.sqrt(2) * 3 / 2
    assert found.value == pytest.approx(2.5 * math.sqrt(2) * 3 / 2, rel=0.05)
    assert not found.unknown


def test_what_is_unknown_is_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Softmax(-1), nn.Linear(3, 1))
    assert lipschitz_bound(model, (3,)) == (math.inf, ("softmax",))
    with pytest.raises(ValueError, match=r"argument `input_shape` must be one that Sequential can take, got \(4,\): "):
        lipschitz_bound(model, (4,))


def test_batch_normalisation_counts_as_it_is_evaluated():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.BatchNorm1d(2, eps=0.0))
    nn.init.eye_(model[0].weight)
    model[1].running_var.copy_(torch.tensor([4.0, 1 / 9]))
    assert lipschitz_bound(model, (2,)).value == pytest.approx(3, rel=0.05)
    assert model.training


def test_weights_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv1d(1, 1, 2))
    model[1].weight.data[0] = math.nan
    with pytest.raises(ValueError, match="weight of layer '1' must be finite, got NaN or infinity"):
        lipschitz_bound(model, (1, 3))


class _Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(4, 4, bias=False), function

    def forward(self, x):
        return self.function(self.layer(x))


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        (lambda x: torch.mul(*x.chunk(2, 1)), ("mul",)),
        (lambda x: x.max(1).values, ("max",)),
        (lambda x: (x, x), ("an output of tuple",)),
        (lambda x: torch.cat(x.split(2, 1), 1), ()),
    ],
)
def test_functions_with_several_outputs_are_not_taken_for_constants(function, unknown):
    found = lipschitz_bound(_Applied(function), (4,))
    assert found.unknown == unknown
    assert found.value == math.inf if unknown else found.value > 0


def write_through_a_view(x):
    x[:, :2].mul_(5)
    return x


def view_of_what_is_written(x):
    buffer = torch.zeros(4)
    view = buffer.view(4)
    buffer.add_(x[0])
    return view.unsqueeze(0)


def relu_and_what_it_was(x):
    view = x.view(4)
    nn.functional.relu_(x)
    return view


REPEATED = torch.tensor([0, 0, 1, 0, 3])


@pytest.mark.parametrize(
    ("function", "unknown"),
    [
        (lambda x: nn.functional.dropout(x, 0.5), "dropout"),
        (lambda x: torch.dropout(x, 0.5, True), "dropout"),
        (lambda x: x * x.sum().item(), "item"),
        (lambda x: torch.tensor(x.tolist()), "tolist"),
        (lambda x: x + float(x.sum()), "__float__"),
        (lambda x: x * (3.0 if x.sum().item() else 1.0), "item"),
        (lambda x: torch.from_numpy(x.numpy()), "numpy"),
        (lambda x: x * (2.0 if 0.5 in x else 1.0), "__contains__"),
        (write_through_a_view, "mul_"),
        (view_of_what_is_written, "add_ through a view"),
        (relu_and_what_it_was, "relu_ through a view"),
        (lambda x: (x.data.add_(x), x)[1], "data"),
        (lambda x: x.to(torch.int64).float(), "to"),
        (lambda x: x[:, x[0].long()], "long"),
        (lambda x: nn.functional.interpolate(x[None], scale_factor=2.0, mode="linear"), "interpolate"),
    ],
)
def test_what_leads_around_the_bound_is_named(function, unknown):
    """Numbers of Python, writes through another tensor, random numbers: infinite, whatever comes after."""
    found = lipschitz_bound(_Applied(function), (4,))
    assert found.value == math.inf
    assert found.unknown[0] == unknown


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x[:, [2, 2, 2, 0]], math.sqrt(3)),
        (lambda x: x[:, REPEATED], math.sqrt(3)),
        (lambda x: x[..., torch.tensor([True, False, True, False])], 1),
        (lambda x: x[:, None, 1:3], 1),
        (lambda x: x.index_select(1, REPEATED), math.sqrt(3)),
        (lambda x: x.repeat(1, 2), math.sqrt(2)),
        (lambda x: x[0, :, None].expand(4, 5), math.sqrt(5)),
        # Sides of 2 become 3 and 4: at most 2 times 2 copies, where 3 is their mean.
        (lambda x: nn.functional.interpolate(x.view(1, 1, 2, 2), size=(3, 4)), 2),
        (lambda x: nn.functional.interpolate(x[None], size=2), 1),
        (lambda x: nn.functional.dropout(x, 0.5, training=False), 1),
        (lambda x: nn.functional.dropout(x, 0.0), 1),
        (lambda x: torch.mul(x, other=-3), 3),
        (lambda x: x.view(2, 2).add_(1.0), 1),
        (lambda x: x.mT, 1),
    ],
)
def test_repetitions_are_counted(function, expected):
    model = _Applied(function)
    nn.init.eye_(model.layer.weight)
    found = lipschitz_bound(model, (4,))
    assert found.unknown == ()
    assert expected <= found.value <= 1.05 * expected
    assert measured(model.double(), (4,)) == pytest.approx(expected)


def test_linear_layers_of_low_precision_have_a_tight_bound():
    layer = nn.Linear(64, 512).bfloat16()
    norm = torch.linalg.matrix_norm(layer.weight.detach().double(), 2).item()
    assert norm <= lipschitz_bound(layer, (64,)).value <= 1.06 * norm
