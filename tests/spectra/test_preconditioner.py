import copy
import gc
import math
import weakref

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from pcgan_lightning.spectra import (
    Polynomial,
    Preconditioner,
    as_polynomial,
    chosen_layers,
    fit_polynomial,
    match_preconditioning,
    original_parameters,
    original_weight,
    power_iteration,
    precondition,
    preconditioners,
    remove_preconditioning,
    singular_values,
)
from pcgan_lightning.spectra.matrices import MatrixLayout

DEGREES = [1, 3, 5, 7, 9]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

# Transposed convolutions are padded so that they too map an input of the kernel's size to one pixel.
LAYERS = {
    "wide linear": lambda: nn.Linear(7, 4, bias=False),
    "tall linear": lambda: nn.Linear(4, 7, bias=False),
    "square linear": lambda: nn.Linear(5, 5, bias=False),
    "one row": lambda: nn.Linear(6, 1, bias=False),
    "one column": lambda: nn.Linear(1, 6, bias=False),
    "conv1d": lambda: nn.Conv1d(2, 5, 3, bias=False),
    "conv2d": lambda: nn.Conv2d(3, 4, (2, 3), bias=False),
    "tall conv2d": lambda: nn.Conv2d(2, 16, 2, bias=False),
    "conv3d": lambda: nn.Conv3d(2, 3, (2, 1, 2), bias=False),
    "grouped conv2d": lambda: nn.Conv2d(4, 6, (2, 3), groups=2, bias=False),
    "depthwise conv1d": lambda: nn.Conv1d(3, 6, 2, groups=3, bias=False),
    "transposed1d": lambda: nn.ConvTranspose1d(3, 5, 3, padding=2, bias=False),
    "transposed2d": lambda: nn.ConvTranspose2d(3, 4, (2, 3), padding=(1, 2), bias=False),
    "tall transposed2d": lambda: nn.ConvTranspose2d(2, 16, 2, padding=1, bias=False),
    "transposed3d": lambda: nn.ConvTranspose3d(2, 3, (2, 1, 2), padding=(1, 0, 1), bias=False),
    "grouped transposed2d": lambda: nn.ConvTranspose2d(4, 6, (2, 3), padding=(1, 2), groups=2, bias=False),
}


def g(degree, x):
    """The published polynomial (tested on its own), by numpy."""
    return sum(c * x ** (2 * t + 1) for t, c in enumerate(as_polynomial(degree).coefficients))


def input_shape(layer):
    """The shape of an input that gives one pixel."""
    if isinstance(layer, nn.Linear):
        return (layer.in_features,)
    return layer.in_channels, *layer.kernel_size


def dense_matrix(layer):
    """The matrix of a layer as a linear operator: its outputs at the unit vectors, as columns."""
    shape = input_shape(layer)
    basis = torch.eye(math.prod(shape), dtype=layer.weight.dtype)
    return layer(basis.view(-1, *shape)).flatten(1).T.detach().numpy()


def svd(matrix):
    """Singular values in descending order, by numpy in float64."""
    return np.linalg.svd(np.asarray(matrix, np.float64), compute_uv=False)


def matrices(layer):
    """The matrices ``[groups, rows, cols]`` the optimizer owns (the layout is tested on its own)."""
    weight = original_weight(layer).detach()
    return MatrixLayout.of_layer(layer).to_matrices(weight if weight.dtype == torch.float64 else weight.float()).numpy()


def iterated(layer, vectors, iterations=1):
    """u and v of a layer's matrices after power iterations, by numpy, one matrix at a time."""
    new_u, new_v = (x.copy() for x in vectors)
    for m, u, v in zip(matrices(layer), new_u, new_v, strict=True):
        for _ in range(iterations):
            u[:] = m @ v / np.linalg.norm(m @ v)
            v[:] = m.T @ u / np.linalg.norm(m.T @ u)
    return new_u, new_v


def pc_layer(layer, degree=1):
    """Precondition one layer and return its PC-layer."""
    return preconditioners(precondition(layer, degree, "all"))["weight"]


def vectors(network):
    """A copy of u and v of every PC-layer."""
    return {name: (p.u.numpy().copy(), p.v.numpy().copy()) for name, p in preconditioners(network).items()}


def assert_vectors_equal(first, second, atol=0):
    for name in first:
        for a, b in zip(first[name], second[name], strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=name)


def state(network):
    """A copy of the state."""
    return {key: value.clone() for key, value in network.state_dict().items()}


def assert_states_equal(first, second):
    assert list(first) == list(second)
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def discriminator():
    """[N, 3, 4, 4] -> [N, 1], smooth, with two equal shapes, groups and a transposed convolution."""
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 6, 2, stride=2, groups=2),
        nn.Tanh(),
        nn.ConvTranspose2d(6, 4, 2, stride=2),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(4, 4, 3, padding=1),
        nn.Flatten(),
        nn.Linear(64, 1),
    ).double()


CONVOLUTIONS = ["0", "2", "4", "5", "7"]
IMAGES = torch.linspace(-1, 1, 2 * 3 * 4 * 4, dtype=torch.float64).view(2, 3, 4, 4)


def train(network, optimizer, steps=1):
    """A few steps of any optimizer; a closure, as LBFGS wants one."""

    def closure():
        optimizer.zero_grad()
        loss = network(IMAGES).square().mean()
        loss.backward()
        return loss

    for _ in range(steps):
        optimizer.step(closure)


# --- The map W -> g(W / u^T W v)


# Every layer with one degree and dtype, and all pairs of these.
@pytest.mark.parametrize(
    ("kind", "degree", "dtype"),
    [(kind, DEGREES[n % 5], list(TOLERANCE)[n % 2]) for n, kind in enumerate(LAYERS)],
)
def test_singular_values_become_g_of_them(kind, degree, dtype):
    layer = LAYERS[kind]().to(dtype)
    before = svd(dense_matrix(layer))
    after = svd(dense_matrix(precondition(layer, degree, "all")))
    # u and v start as the exact singular vectors, and the published g are positive on (0, 1].
    np.testing.assert_allclose(after, np.sort(g(degree, before / before[0]))[::-1], rtol=0, atol=TOLERANCE[dtype])
    assert layer.weight.dtype == dtype


@pytest.mark.parametrize("kind", ["wide linear", "tall linear", "grouped conv2d", "grouped transposed2d"])
def test_the_estimate_is_the_largest_u_w_v(kind):
    layer = LAYERS[kind]().double()
    before = svd(dense_matrix(layer))
    p = pc_layer(layer, 3)
    p.u.add_(0.1 * torch.randn_like(p.u))
    estimate = max(u @ m @ v for u, m, v in zip(p.u.numpy(), matrices(layer), p.v.numpy(), strict=True))
    assert abs(estimate / before[0] - 1) > 0.01
    expected = np.sort(np.abs(g(3, before / estimate)))[::-1]
    np.testing.assert_allclose(svd(dense_matrix(layer)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("kind", "dtype"), [("wide linear", torch.float16), ("tall transposed2d", torch.bfloat16)])
def test_half_precision_weights_are_computed_in_float32(kind, dtype):
    layer = LAYERS[kind]().to(dtype)
    exact = copy.deepcopy(layer).double()
    precondition(layer, 9, "all"), precondition(exact, 9, "all")
    assert layer.weight.dtype == dtype
    assert {p.u.dtype for p in preconditioners(layer).values()} == {torch.float32}
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


# --- Gradients


@pytest.mark.parametrize(
    ("build", "degree"),
    [
        (lambda: nn.Linear(3, 2), 5),
        (lambda: nn.Linear(2, 3), 9),
        (lambda: nn.Conv1d(2, 2, 2), 1),
        (lambda: nn.ConvTranspose1d(2, 2, 2), 3),
        (lambda: nn.Conv1d(2, 4, 2, groups=2), 7),
        (lambda: nn.ConvTranspose1d(4, 2, 1, groups=2), 5),
    ],
)
def test_first_and_second_derivatives(build, degree):
    layer = build().double()
    weight = layer.weight.detach()
    p = Preconditioner(weight, MatrixLayout.of_layer(layer), as_polynomial(degree))
    # Off the exact singular vectors, where d(u^T W v) = d(sigma) would hide a gradient through u and v.
    weight = (weight + 0.1 * torch.randn_like(weight)).requires_grad_()
    assert torch.autograd.gradcheck(p, weight)
    assert torch.autograd.gradgradcheck(p, weight)


@pytest.mark.parametrize("degree", [1, 7])
def test_gradient_penalty(degree):
    network = precondition(discriminator(), degree)
    images = IMAGES.clone().requires_grad_()
    parameters = list(network.parameters())
    directions = [torch.randn_like(p) for p in parameters]

    def penalty():
        (slope,) = torch.autograd.grad(network(images).sum(), images, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def penalty_at(step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=step)
        value = penalty().item()
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.sub_(d, alpha=step)
        return value

    gradients = torch.autograd.grad(penalty(), parameters, allow_unused=True)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True) if g is not None)
    h = 1e-5  # central differences: h^2 of truncation, 1e-16 / h of rounding
    assert slope == pytest.approx((penalty_at(h) - penalty_at(-h)) / (2 * h), rel=1e-6, abs=1e-9)
    assert abs(slope) > 1e-3


@pytest.mark.parametrize("kind", ["wide linear", "tall linear", "conv2d", "transposed2d"])
def test_degree_1_is_the_spectral_norm_of_torch(kind):
    ours = LAYERS[kind]().double()
    theirs = parametrizations.spectral_norm(copy.deepcopy(ours)).eval()
    p, reference = pc_layer(ours), theirs.parametrizations.weight[0]
    p.u[0], p.v[0] = reference._u, reference._v
    optimizers = [torch.optim.SGD(layer.parameters(), lr=0.5) for layer in (ours, theirs)]
    for _ in range(3):
        cotangent = torch.randn_like(ours.weight)
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=0, atol=1e-12)
        for layer in (ours, theirs):
            layer.zero_grad()
            (cotangent * layer.weight).sum().backward()
        torch.testing.assert_close(original_weight(ours).grad, original_weight(theirs).grad, rtol=0, atol=1e-12)
        for optimizer in optimizers:
            optimizer.step()
        # Torch iterates in the first forward in training mode after the step.
        theirs.train()(torch.zeros(1, *input_shape(theirs), dtype=torch.float64))
        theirs.eval()
        torch.testing.assert_close(p.u[0], reference._u, rtol=0, atol=1e-12)
        torch.testing.assert_close(p.v[0], reference._v, rtol=0, atol=1e-12)


# --- The power iteration


@pytest.mark.parametrize("training", [True, False])
def test_forward_and_backward_change_nothing(training):
    network = precondition(discriminator(), 5).train(training)
    before = state(network)
    outputs = [network(IMAGES) for _ in range(3)]
    outputs[0].sum().backward()
    assert torch.equal(outputs[0], outputs[1])
    assert torch.equal(outputs[0], outputs[2])
    assert torch.equal(outputs[0], network.train(not training)(IMAGES))
    assert_states_equal(state(network), before)


OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.5, momentum=0.9),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3),
}


def assert_one_iteration(network, before, names=None):
    """Whether u and v of the layers `names` (default: all) made one power iteration, and the others none."""
    for name, p in preconditioners(network).items():
        expected = before[name]
        if names is None or name in names:
            none, one, two = (iterated(network.get_submodule(name), before[name], i) for i in (0, 1, 2))
            # Far enough from a fixed point to be told apart; a single row has converged after one.
            assert np.abs(none[1] - one[1]).max() > 1e-9
            assert np.abs(one[1] - two[1]).max() > 1e-9 or name == "9"
            expected = one
        assert_vectors_equal({name: (p.u, p.v)}, {name: expected}, atol=1e-12)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_each_optimizer_step_makes_one_power_iteration(kind):
    network = precondition(discriminator(), 3)
    optimizer = OPTIMIZERS[kind](network.parameters())
    for _ in range(3):
        before = vectors(network)
        train(network, optimizer)
        assert_one_iteration(network, before)


def test_only_layers_of_the_stepping_optimizer_move():
    network, other = precondition(discriminator(), 3), precondition(discriminator(), 3)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    first, last = original_weight(network[0]), original_weight(network[7])
    for parameters, names in [
        (other.parameters(), ()),
        (biases, ()),
        ([first], ["0"]),
        ([first, last], ["0", "7"]),
    ]:
        before = vectors(network)
        optimizer = torch.optim.SGD(parameters, lr=0.5)
        train(network, optimizer)
        assert_one_iteration(network, before, names)


def test_a_weight_may_be_in_any_parameter_group():
    network = precondition(discriminator(), 3)
    groups = [{"params": [p]} for p in network.parameters()]
    before = vectors(network)
    train(network, torch.optim.SGD(groups, lr=0.5))
    assert_one_iteration(network, before)


@pytest.mark.parametrize("iterations", [1, 4])
def test_power_iteration_by_hand(iterations):
    network = precondition(discriminator(), 3)
    for p in preconditioners(network).values():
        p.v.copy_(nn.functional.normalize(torch.randn_like(p.v), dim=-1))
    before = vectors(network)
    power_iteration(network, iterations)
    expected = {name: iterated(network.get_submodule(name), old, iterations) for name, old in before.items()}
    assert_vectors_equal(vectors(network), expected, atol=1e-12)


def test_copies_train_on_their_own():
    network = precondition(discriminator(), 3)
    replica = copy.deepcopy(copy.deepcopy(network))
    before = state(network)
    start = vectors(replica)
    train(replica, torch.optim.SGD(replica.parameters(), lr=0.5))
    assert_one_iteration(replica, start)
    assert_states_equal(state(network), before)

    # And the other way round, after the copy's training.
    before, start = state(replica), vectors(network)
    train(network, torch.optim.SGD(network.parameters(), lr=0.5))
    assert_one_iteration(network, start)
    assert_states_equal(state(replica), before)


def test_a_copy_outlives_the_original():
    replica = copy.deepcopy(precondition(discriminator(), 3))
    gc.collect()
    start = vectors(replica)
    train(replica, torch.optim.SGD(replica.parameters(), lr=0.5))
    assert_one_iteration(replica, start)


def test_networks_can_be_collected():
    network = precondition(discriminator(), 3)
    replica = copy.deepcopy(network)
    train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    references = [weakref.ref(layer) for n in (network, replica) for layer in n]
    references += [weakref.ref(p) for n in (network, replica) for p in n.parameters()]
    del network, replica
    gc.collect()
    assert [r() for r in references if r() is not None] == []


def test_layers_taken_apart_by_hand_do_not_disturb_optimizers():
    layer, other = precondition(nn.Linear(3, 3), 3, "all"), nn.Linear(3, 3)
    parametrize.remove_parametrizations(layer, "weight")
    parametrizations.weight_norm(layer)
    try:
        torch.optim.SGD(other.parameters(), lr=0.1).step()
    finally:  # lest a failure here make every later test fail
        parametrize.remove_parametrizations(layer, "weight")


# --- precondition


def degrees(network):
    return {name: p.polynomial.degree for name, p in preconditioners(network).items()}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_an_optimizer_made_before_trains_on(kind):
    # Two equal networks: the optimizer of one is made before, of the other after.
    early, late = discriminator(), discriminator()
    late.load_state_dict(early.state_dict())
    optimizer = OPTIMIZERS[kind](early.parameters())
    precondition(early, 5), precondition(late, 5)
    start = state(early)
    train(early, optimizer, 3)
    train(late, OPTIMIZERS[kind](late.parameters()), 3)
    for key, value in late.state_dict().items():
        # Equal but for the order in which LBFGS and foreach sum.
        torch.testing.assert_close(early.state_dict()[key], value, rtol=0, atol=1e-10)
        fixed = key.endswith("_extra_state") or key == "9.parametrizations.weight.0.u"  # of a single row: +-1
        assert torch.equal(start[key], value) == fixed, key


@pytest.mark.parametrize(
    ("layers", "chosen", "normalize_rest"),
    [
        ("convolutions", CONVOLUTIONS, True),
        ("all", [*CONVOLUTIONS, "9"], False),
        (["7", "0"], ["0", "7"], False),
        ({"9"}, ["9"], True),
        ([], [], False),
        (lambda name, layer: name > "2" and layer.weight.shape[1] == 4, ["4", "5", "7"], True),
    ],
)
def test_layers(layers, chosen, normalize_rest):
    network = discriminator()
    assert chosen_layers(network, layers) == chosen
    precondition(network, 7, layers, normalize_rest)
    rest = dict.fromkeys([*CONVOLUTIONS, "9"], 1) if normalize_rest else {}
    assert degrees(network) == {**rest, **dict.fromkeys(chosen, 7)}


def test_defaults():
    assert degrees(precondition(discriminator())) == {**dict.fromkeys(CONVOLUTIONS, 3), "9": 1}


def test_custom_polynomials():
    layer, polynomial = LAYERS["conv2d"]().double(), fit_polynomial(0.5, 11)
    before = svd(dense_matrix(layer))
    after = svd(dense_matrix(precondition(layer, polynomial)))
    values = sum(c * (before / before[0]) ** (2 * t + 1) for t, c in enumerate(polynomial.coefficients))
    np.testing.assert_allclose(after, np.sort(values)[::-1], rtol=0, atol=1e-12)


def test_preconditioning_again_switches_the_degree_and_keeps_the_vectors():
    network = precondition(discriminator(), 3)
    train(network, torch.optim.SGD(network.parameters(), lr=0.5))
    before, outputs = state(network), network(IMAGES)
    assert_states_equal(state(precondition(network, 3)), before)

    start = vectors(network)
    precondition(network, 9, ["0"], normalize_rest=False)
    assert degrees(network) == {**dict.fromkeys(CONVOLUTIONS, 3), "0": 9, "9": 1}
    assert_vectors_equal(vectors(network), start)
    assert not torch.allclose(network(IMAGES), outputs)

    preconditioners(network)["0"].polynomial = as_polynomial(3)
    assert torch.equal(network(IMAGES), outputs)


def test_printed_networks_show_the_degree():
    assert "Preconditioner(degree=7)" in repr(precondition(discriminator(), 7))


# --- In the place of torch's spectral norm

SPECTRAL_NORMS = {"parametrization": parametrizations.spectral_norm, "hook": spectral_norm}
WEIGHT_KEY = "parametrizations.weight.original"
PC_KEYS = [
    "parametrizations.weight.0.u",
    "parametrizations.weight.0.v",
    "parametrizations.weight.0._extra_state",
]


@pytest.fixture(params=SPECTRAL_NORMS)
def normalise(request):
    return SPECTRAL_NORMS[request.param]


def trained(layer):
    """The layer after a few steps in training mode: torch's u and v have settled, but not converged."""
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(2, *input_shape(layer), dtype=torch.float64)).square().sum().backward()
        optimizer.step()
    return layer.eval()


@pytest.mark.parametrize("kind", ["wide linear", "square linear", "conv2d", "transposed2d"])
def test_taking_over_a_spectral_norm(kind, normalise):
    layer = trained(normalise(LAYERS[kind]().double()))
    parameter = dict(layer.named_parameters())["weight_orig" if normalise is spectral_norm else WEIGHT_KEY]
    u, v = (b.clone() for b in dict(layer.named_buffers()).values())
    x = torch.randn(2, *input_shape(layer), dtype=torch.float64)
    expected = layer(x)

    p = pc_layer(layer)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert original_weight(layer) is parameter
    assert torch.equal(p.u[0], u)
    assert torch.equal(p.v[0], v)
    assert list(layer.state_dict()) == [WEIGHT_KEY, *PC_KEYS]
    assert "weight" not in vars(layer)
    assert not layer._forward_pre_hooks
    assert not layer._state_dict_hooks

    # Torch's no longer iterates; the optimizer's step does.
    before = state(layer)
    layer.train()(x).sum().backward()
    assert_states_equal(state(layer), before)
    torch.optim.SGD([parameter], lr=0.5).step()
    assert not torch.equal(p.v[0], v)


def test_a_fresh_spectral_norm_has_no_vectors_worth_keeping(normalise):
    # The hook starts from random u and v, and iterates for the first time in its first forward: with these
    # SN(W) would be far above 1, where g explodes. The published g leave room for a tenth.
    layer = precondition(normalise(nn.Conv2d(32, 64, 3)), 9)
    assert singular_values(layer, after_polynomial=False)["weight"].max() < 1.1


# Where the channels are as many, the shapes of u and v fit by accident.
@pytest.mark.parametrize(
    "build", [lambda: nn.Linear(6, 6), lambda: nn.ConvTranspose2d(6, 6, 2), lambda: nn.Conv2d(6, 4, 2)]
)
def test_vectors_of_a_spectral_norm_along_another_axis_are_not_kept(build, normalise):
    layer = build().double()
    layer = normalise(layer, dim=0 if isinstance(layer, nn.ConvTranspose2d) else 1)
    layer.train()(torch.ones(1, 6, 6, 6, dtype=torch.float64))
    values = singular_values(precondition(layer, 7, "all"), after_polynomial=False)["weight"]
    assert values.max().item() == pytest.approx(1, abs=1e-12)


def test_vectors_of_a_spectral_norm_across_groups_are_not_kept(normalise):
    layer = precondition(normalise(nn.Conv2d(4, 6, 2, groups=2).double()), 7)
    assert singular_values(layer, after_polynomial=False)["weight"].max().item() == pytest.approx(1, abs=1e-12)


# --- What cannot be preconditioned


class Opaque(nn.Module):
    def forward(self, weight):
        return 2 * weight


def zeroed(layer, value=0.0):
    layer.weight.data.fill_(value)
    return layer


def zeroed_original(layer):
    layer.weight_orig.data.zero_()
    return layer


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Opaque())
    return layer


REFUSED = {
    "zero": (lambda: zeroed(nn.Linear(2, 2)), "its weight must not be zero"),
    "nan": (lambda: zeroed(nn.Linear(2, 2), math.nan), "its weight must be finite"),
    "infinite": (lambda: zeroed(nn.Linear(2, 2), math.inf), "its weight must be finite"),
    "lazy": (lambda: nn.LazyLinear(2), "must be an initialised Parameter, got LazyLinear"),
    "complex": (lambda: nn.Linear(2, 2, dtype=torch.complex64), "real floating dtype, got torch.complex64"),
    "weight norm": (
        lambda: parametrizations.weight_norm(nn.Linear(2, 2)),
        r"no other parametrization.*_WeightNorm",
    ),
    "weight norm hook": (lambda: weight_norm(nn.Linear(2, 2)), "must be an initialised Parameter"),
    "other": (lambda: doubled(nn.Linear(2, 2)), r"no other parametrization, got \['Opaque'\]"),
    "two": (lambda: doubled(parametrizations.spectral_norm(nn.Linear(2, 2))), r"'_SpectralNorm', 'Opaque'"),
    "zero under a spectral norm": (
        lambda: zeroed_original(spectral_norm(nn.Linear(2, 2))),
        "must not be zero",
    ),
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_refused_layer_leaves_the_whole_network_as_it_was(kind):
    build, message = REFUSED[kind]
    network = nn.Sequential(
        nn.Linear(2, 2),
        spectral_norm(nn.Linear(2, 2)),
        parametrizations.spectral_norm(nn.Linear(2, 2)),
        build(),
    )
    before, modules = list(network.state_dict()), [type(m) for m in network.modules()]
    with pytest.raises(ValueError, match=rf"layer '3' can't be preconditioned: .*{message}"):
        precondition(network, 3, "all")
    assert list(network.state_dict()) == before
    assert [type(m) for m in network.modules()] == modules
    assert preconditioners(network) == {}


def test_layers_that_are_left_alone_are_not_refused():
    network = nn.Sequential(nn.Conv2d(1, 1, 1), zeroed(nn.Linear(2, 2)))
    assert degrees(precondition(network, 3, normalize_rest=False)) == {"0": 3}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"degree": 2}, r"`degree` must be one of \(1, 3, 5, 7, 9\) or a Polynomial, got 2"),
        ({"degree": 11}, "`degree` must be one of .*, got 11"),
        ({"degree": True}, "`degree` must be one of .*, got True"),
        (
            {"layers": ["0", "8", "1"]},
            r"`layers` must name weight layers of the module, got \['1', '8'\]; it has \['0'",
        ),
        (
            {"layers": "0"},
            "`layers` must be 'convolutions', 'all', a collection of names or a function, got '0'",
        ),
    ],
)
def test_arguments_of_precondition(arguments, message):
    network = discriminator()
    with pytest.raises(ValueError, match=message):
        precondition(network, **arguments)
    assert preconditioners(network) == {}


def test_a_module_without_matrices_is_refused():
    with pytest.raises(ValueError, match="`module` must hold a Linear, Conv or ConvTranspose layer, got Sequential"):
        precondition(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))


# --- Taking it off


@pytest.mark.parametrize("degree", [1, 7])
def test_removing_folds_the_effective_weights(degree):
    network = discriminator()
    keys, types, parameters = set(network.state_dict()), [type(m) for m in network], set(network.parameters())
    precondition(network, degree)
    train(network, torch.optim.SGD(network.parameters(), lr=0.1))
    outputs = network(IMAGES)
    assert remove_preconditioning(network) is network
    assert torch.equal(network(IMAGES), outputs)
    assert set(network.parameters()) == parameters
    assert set(network.state_dict()) == keys
    assert [type(m) for m in network] == types
    assert preconditioners(network) == {}


def test_removing_from_tied_weights():
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    precondition(network, 3, "all")
    x = torch.randn(2, 3)
    outputs = network(x)
    assert torch.equal(remove_preconditioning(network)(x), outputs)
    assert network[2].weight is network[0].weight


def test_names_and_order_of_the_parameters(normalise):
    network = discriminator()
    identities = lambda named: [(name, id(p)) for name, p in named]  # noqa: E731
    parameters = identities(network.named_parameters())
    for name in ("2", "9"):
        normalise(network.get_submodule(name))
    precondition(network, 3, ["2", "9", "5"], normalize_rest=False)
    assert identities(original_parameters(network).items()) == parameters
    assert identities(remove_preconditioning(network).named_parameters()) == parameters
    assert identities(original_parameters(network).items()) == parameters


def test_an_optimizer_trains_on_after_the_removal():
    network = precondition(discriminator(), 3)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    remove_preconditioning(network)
    expected = copy.deepcopy(network)
    train(network, optimizer, 2)
    train(expected, torch.optim.SGD(expected.parameters(), lr=0.1), 2)
    assert_states_equal(state(network), state(expected))
    # And it can be put on again.
    assert degrees(precondition(network, 5)) == {**dict.fromkeys(CONVOLUTIONS, 5), "9": 1}


def test_removing_leaves_other_layers_alone(normalise):
    network = nn.Sequential(nn.Conv2d(1, 2, 2), normalise(nn.Linear(2, 2)), nn.Linear(2, 2))
    keys = set(network.state_dict())
    remove_preconditioning(precondition(network, 3, normalize_rest=False))
    assert set(network.state_dict()) == keys


# --- Checkpoints


@pytest.fixture
def saved(tmp_path):
    """A trained network of mixed degrees, and its state through a file that holds tensors alone."""
    network = precondition(discriminator(), 7, ["0", "2"], normalize_rest=False)
    precondition(network, Polynomial((0.5, 0.25, 0.25)), ["4", "9"], normalize_rest=False)
    train(network, torch.optim.SGD(network.parameters(), lr=0.5))
    torch.save(network.state_dict(prefix="discriminator."), tmp_path / "state.pt")
    return network, torch.load(tmp_path / "state.pt", weights_only=True)


def load(network, state_dict):
    network.load_state_dict({key.removeprefix("discriminator."): value for key, value in state_dict.items()})


def test_a_state_dict_brings_its_polynomials(saved):
    network, state_dict = saved
    fresh = precondition(discriminator(), 3, ["0", "2", "4", "9"], normalize_rest=False)
    load(fresh, state_dict)
    assert {n: p.polynomial for n, p in preconditioners(fresh).items()} == {
        "0": as_polynomial(7),
        "2": as_polynomial(7),
        "4": Polynomial((0.5, 0.25, 0.25)),
        "9": Polynomial((0.5, 0.25, 0.25)),
    }
    assert torch.equal(fresh(IMAGES), network(IMAGES))
    for n in (network, fresh):  # and training resumes exactly
        train(n, torch.optim.SGD(n.parameters(), lr=0.5), 2)
    assert_states_equal(state(fresh), state(network))


# Layer 5 is plain in the checkpoint, layer 4 preconditioned: matching must take off and put on.
@pytest.mark.parametrize("names", [[], ["0", "2", "4", "9"], ["5", "0"], [*CONVOLUTIONS, "9"]])
def test_matching_a_preconditioned_state(saved, names):
    network, state_dict = saved
    fresh = precondition(discriminator(), 3, names, normalize_rest=False)
    parameters = set(fresh.parameters())
    match_preconditioning(fresh, state_dict, prefix="discriminator.")
    assert set(fresh.parameters()) == parameters
    load(fresh, state_dict)
    assert torch.equal(fresh(IMAGES), network(IMAGES))
    assert {n: p.polynomial for n, p in preconditioners(fresh).items()} == {
        n: p.polynomial for n, p in preconditioners(network).items()
    }
    start = vectors(fresh)
    train(fresh, torch.optim.SGD(fresh.parameters(), lr=0.5))
    assert_one_iteration(fresh, start)


def test_matching_looks_under_the_prefix_alone(saved):
    _, state_dict = saved
    plain = discriminator()
    match_preconditioning(plain, state_dict)
    match_preconditioning(plain, state_dict, prefix="generator.")
    assert preconditioners(plain) == {}
    network = precondition(discriminator(), 3)
    match_preconditioning(network, {f"generator.{k}": v for k, v in plain.state_dict().items()})
    assert len(preconditioners(network)) == 6


@pytest.mark.parametrize("prefix", ["", "layer."])
def test_matching_one_layer(prefix):
    plain, network = nn.Linear(3, 4), precondition(nn.Linear(3, 4), 5, "all")
    plain_state = plain.state_dict(prefix=prefix)
    match_preconditioning(plain, network.state_dict(prefix=prefix), prefix)
    assert degrees(plain) == {"weight": 5}
    match_preconditioning(network, plain_state, prefix)
    assert degrees(network) == {}
    network.load_state_dict({key.removeprefix(prefix): value for key, value in plain_state.items()})


def test_matching_a_network_with_spectral_norms(saved, normalise):
    network, state_dict = saved
    fresh = discriminator()
    for name in ("0", "2", "4", "9"):
        normalise(fresh.get_submodule(name))
    match_preconditioning(fresh, state_dict, prefix="discriminator.")
    load(fresh, state_dict)
    assert torch.equal(fresh(IMAGES), network(IMAGES))


@pytest.mark.parametrize("normalise", [lambda layer: layer, *SPECTRAL_NORMS.values()])
def test_a_network_built_without_memory_can_be_loaded(normalise):
    network = precondition(discriminator(), 5)
    with torch.device("meta"):
        fresh = discriminator()
        normalise(fresh[0])
        precondition(fresh, 3)
        assert fresh(IMAGES.to("meta")).shape == (2, 1)
    fresh.to_empty(device="cpu").load_state_dict(network.state_dict())
    assert torch.equal(fresh(IMAGES), network(IMAGES))


# --- Conversions


@pytest.mark.parametrize(
    ("dtype", "kept"),
    [
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float64, torch.float64),
    ],
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
    torch.optim.SGD(layer.parameters(), lr=0.5).step()
    assert_vectors_equal(vectors(layer), {"weight": iterated(layer, start["weight"])}, atol=1e-6)


def test_removing_from_a_copy_leaves_the_original_alone():
    network = precondition(nn.Sequential(nn.Conv2d(3, 4, 3)), 3)
    x = torch.randn(2, 3, 5, 5)
    before = network(x)
    copied = remove_preconditioning(copy.deepcopy(network))
    torch.testing.assert_close(copied(x), before)
    assert torch.equal(network(x), before)
    assert preconditioners(network).keys() == {"0"}
