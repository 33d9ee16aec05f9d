"""Normalised and grafted optimizers against updates written by hand in numpy."""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA, Grafted, layer_name
from pcgan_lightning.spectra import precondition

# Three tensors in two layers, and one that stands alone.
SHAPES = {"first.weight": (4, 3, 2, 2), "first.bias": (4,), "second.weight": (5, 4), "alone": ()}
BLOCKS = {
    "global": [list(SHAPES)],
    "layer": [["first.weight", "first.bias"], ["second.weight"], ["alone"]],
    "tensor": [[name] for name in SHAPES],
}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
SCOPES = pytest.mark.parametrize("scope", BLOCKS)


OPTIMIZERS = {
    "NSGDA": lambda parameters, **options: NSGDA(parameters, lr=0.1, **options),
    "AdaNSGDA": lambda parameters, **options: AdaNSGDA(parameters, lr=0.1, **options),
    "AdaDir": lambda parameters, **options: AdaDir(parameters, lr=0.1, **options),
    "Grafted": lambda parameters, **options: Grafted(
        parameters,
        lambda p: torch.optim.Adam(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
        **options,
    ),
}
EACH_OPTIMIZER = pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)


def make_parameters(dtype=torch.float64):
    rng = np.random.default_rng(0)
    return {name: nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype)) for name, shape in SHAPES.items()}


def make_gradients(updates, dtype=torch.float64):
    """Of very different sizes, from tensor to tensor and from update to update."""
    rng = np.random.default_rng(1)
    sizes = dict(zip(SHAPES, (1.0, 1e-3, 30.0, 0.2), strict=True))
    return [
        {n: torch.tensor(sizes[n] * 2.0**-k * rng.normal(size=s), dtype=dtype) for n, s in SHAPES.items()}
        for k in range(updates)
    ]


def values(parameters):
    return {name: p.detach().numpy().copy() for name, p in parameters.items()}


def run(optimizer, parameters, gradients):
    for update in gradients:
        for name, parameter in parameters.items():
            parameter.grad = None if update.get(name) is None else update[name].clone()
        optimizer.step()
    return values(parameters)


def first_update(optimizer, parameters):
    """How far the first update moves the parameters."""
    before = values(parameters)
    after = run(optimizer, parameters, make_gradients(1))
    return {name: after[name] - before[name] for name in SHAPES}


def norm(tensors, names):
    return np.sqrt(sum((tensors[n] ** 2).sum() for n in names))


class NumpyOracle:
    """Adam's oracle for one tensor after another."""

    def __init__(self, kind, beta1, beta2, eps):
        self.kind, self.beta1, self.beta2, self.eps = kind, beta1, beta2, eps
        self.first, self.second, self.updates = {}, {}, {}

    def __call__(self, name, g):
        b1, b2 = self.beta1, self.beta2
        a, c = (1 - b1, 1 - b2) if self.kind == "adam" else (1.0, 1.0)
        self.first[name] = b1 * self.first.get(name, 0.0) + a * g
        self.second[name] = b2 * self.second.get(name, 0.0) + c * g**2
        self.updates[name] = k = self.updates.get(name, 0) + 1
        if self.kind == "adam":
            return self.first[name] / (1 - b1**k) / (np.sqrt(self.second[name] / (1 - b2**k)) + self.eps)
        return self.first[name] / np.sqrt(self.second[name] + self.eps)


def by_hand(kind, gradients, scope, lr, eps=0.0, oracle=None, sign=-1.0):
    """Parameters after updates in float64."""
    weights = values(make_parameters())
    for update in gradients:
        g = {name: value.double().numpy() for name, value in update.items()}
        adaptive = {name: oracle(name, value) for name, value in g.items()} if oracle else None
        for names in BLOCKS[scope]:
            direction = adaptive if kind is AdaDir else g
            magnitude = {NSGDA: 1.0, AdaNSGDA: norm(adaptive or g, names), AdaDir: norm(g, names)}[kind]
            for name in names:
                weights[name] += sign * lr * magnitude * direction[name] / (norm(direction, names) + eps)
    return weights


def assert_close(found, expected, dtype=torch.float64):
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype], err_msg=name)


# Pairs of options, not all products.
@pytest.mark.parametrize(
    ("scope", "dtype", "eps", "maximize"),
    [
        ("global", torch.float32, 0.0, False),
        ("global", torch.float64, 0.5, True),
        ("layer", torch.float64, 0.0, True),
        ("layer", torch.float32, 0.5, False),
        ("tensor", torch.float64, 0.5, False),
    ],
)
def test_nsgda(scope, dtype, eps, maximize):
    parameters, gradients = make_parameters(dtype), make_gradients(4, dtype)
    optimizer = NSGDA(parameters.items(), lr=0.05, scope=scope, eps=eps, maximize=maximize)
    expected = by_hand(NSGDA, gradients, scope, 0.05, eps, sign=1.0 if maximize else -1.0)
    assert_close(run(optimizer, parameters, gradients), expected, dtype)


@pytest.mark.parametrize(
    ("kind", "scope", "dtype", "oracle", "betas"),
    [
        (AdaNSGDA, "global", torch.float64, "adam", (0.5, 0.99)),
        (AdaNSGDA, "layer", torch.float32, "adam", (0.0, 0.9)),
        (AdaNSGDA, "tensor", torch.float64, "paper", (0.5, 0.99)),
        (AdaDir, "global", torch.float32, "paper", (0.5, 0.99)),
        (AdaDir, "layer", torch.float64, "paper", (0.0, 0.9)),
        (AdaDir, "tensor", torch.float64, "adam", (0.5, 0.99)),
    ],
)
def test_ada_nsgda_and_ada_dir(kind, scope, dtype, oracle, betas):
    parameters, gradients = make_parameters(dtype), make_gradients(4, dtype)
    optimizer = kind(parameters.items(), lr=0.02, betas=betas, eps=1e-3, scope=scope, oracle=oracle)
    expected = by_hand(kind, gradients, scope, 0.02, 1e-3, NumpyOracle(oracle, *betas, 1e-3))
    assert_close(run(optimizer, parameters, gradients), expected, dtype)


@pytest.mark.parametrize(
    ("scope", "magnitude"),
    [("global", torch.optim.Adam), ("layer", torch.optim.RMSprop), ("tensor", torch.optim.Adagrad)],
)
def test_length_and_direction_of_a_grafted_update(scope, magnitude):
    """Block by block the length of one optimizer's own update, along the other's."""
    parameters, alone, along = make_parameters(), make_parameters(), make_parameters()
    graft = Grafted(parameters.items(), lambda p: magnitude(p, lr=0.1), torch.optim.Rprop, scope=scope)
    longer, other = magnitude(alone.values(), lr=0.1), torch.optim.Rprop(along.values())
    for gradients in make_gradients(3):
        before = [values(ps) for ps in (parameters, alone, along)]
        after = [run(o, p, [gradients]) for o, p in ((graft, parameters), (longer, alone), (other, along))]
        update, length, direction = ({n: a[n] - b[n] for n in SHAPES} for a, b in zip(after, before, strict=True))
        for names in BLOCKS[scope]:
            for name in names:
                scale = norm(length, names) / norm(direction, names)
                np.testing.assert_allclose(update[name], scale * direction[name], rtol=1e-9, atol=1e-12)


# --- What every optimizer here does


@EACH_OPTIMIZER
@pytest.mark.parametrize("scope", ["layer", "tensor"])
def test_zero_gradients_make_zero_updates(make, scope):
    parameters = make_parameters(torch.float32)
    before, zeros = values(parameters), {n: torch.zeros_like(p) for n, p in parameters.items()}
    found = run(make(parameters.items(), scope=scope, eps=0.0), parameters, [zeros] * 2)
    for name, value in before.items():
        np.testing.assert_array_equal(found[name], value)


@EACH_OPTIMIZER
def test_entries_and_parameters_without_gradient_stay(make):
    weight = nn.Parameter(torch.ones(3))
    run(make([weight], eps=0.0), {"w": weight}, [{"w": torch.tensor([0.5, 0.0, -0.5])}] * 2)
    assert weight[1] == 1
    assert weight[0] < 1 < weight[2]

    parameters, gradients = make_parameters(), make_gradients(2)
    del gradients[0]["second.weight"], gradients[1]["second.weight"], gradients[1]["alone"]
    before = values(parameters)
    found = run(make(parameters.items()), parameters, gradients)
    np.testing.assert_array_equal(found["second.weight"], before["second.weight"])
    assert found["alone"] != before["alone"]


@EACH_OPTIMIZER
def test_closure(make):
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = make([weight])

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.5
    assert weight.norm() < 5


@EACH_OPTIMIZER
@SCOPES
def test_saved_and_copied_state_goes_on_bit_by_bit(make, scope, tmp_path):
    gradients, parameters = make_gradients(6), make_parameters()
    optimizer = make(parameters.items(), scope=scope)
    run(optimizer, parameters, gradients[:3])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied, copied_parameters = copy.deepcopy((optimizer, parameters))
    second = copy.deepcopy(parameters)
    resumed = make(second.items(), scope=scope)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    expected = run(optimizer, parameters, gradients[3:])
    for other, own in ((resumed, second), (copied, copied_parameters)):
        for name, value in run(other, own, gradients[3:]).items():
            np.testing.assert_array_equal(value, expected[name])


@EACH_OPTIMIZER
def test_schedulers_move_the_learning_rate(make):
    """Half the learning rate is half the update."""
    updates = []
    for factor in (1.0, 0.5):
        parameters = make_parameters()
        optimizer = make(parameters.items())
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, factor=factor: factor)
        updates.append(first_update(optimizer, parameters))
    for name in SHAPES:
        np.testing.assert_allclose(updates[1][name], updates[0][name] / 2, rtol=1e-10, atol=1e-14)


# --- Groups and layers


@SCOPES
def test_groups_in_double_precision(scope):
    """Each with its own numbers, which must not pass through float32; one norm over all where the scope is global."""
    parameters, (gradients,) = make_parameters(), make_gradients(1)
    options = {n: {"lr": 0.1 * k + 0.03, "eps": 0.1 * k, "maximize": k == 1} for k, n in enumerate(SHAPES)}
    groups = [{"params": [(name, p)], **options[name]} for name, p in parameters.items()]
    moved = first_update(NSGDA(groups, scope=scope), parameters)
    g = {name: value.numpy() for name, value in gradients.items()}
    for names in BLOCKS[scope]:
        for name in names:
            rate = options[name]["lr"] * (1 if options[name]["maximize"] else -1)
            expected = rate * g[name] / (norm(g, names) + options[name]["eps"])
            np.testing.assert_allclose(moved[name], expected, rtol=1e-12, atol=1e-15)


def test_groups_of_a_graft():
    """The learning rate of a group is that of the magnitude."""
    a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    make = lambda p: torch.optim.SGD(p, lr=1.0)  # noqa: E731
    Grafted([{"params": [a], "lr": 0.5}, {"params": [b]}], make, make, scope="tensor").step()
    torch.testing.assert_close(a.data, torch.tensor([-1.5, -2.0]))
    torch.testing.assert_close(b.data, torch.tensor([0.0, -2.0]))


def test_layer_names():
    names = ("weight", "a.b.weight", "a.b.parametrizations.weight.original", "a.parametrizations.weight.original0")
    assert [layer_name(name) for name in names] == ["", "a.b", "a.b", "a"]


@pytest.mark.parametrize("put_on", [lambda net: precondition(net, 3, "all"), lambda net: spectral_norm(net[0])])
def test_layers_are_the_same_with_and_without_parametrizations(put_on):
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    put_on(network)
    optimizer = NSGDA(network.named_parameters(), lr=0.1, scope="layer")
    before = values(dict(network.named_parameters()))
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    for layer in ("0", "2"):
        lengths = [np.linalg.norm(p.detach() - before[n]) for n, p in network.named_parameters() if n[0] == layer]
        assert len(lengths) == 2  # weight and bias
        assert np.hypot(*lengths) == pytest.approx(0.1, rel=1e-5)


def test_layer_scales(tmp_path):
    """Lengths of the layers' updates, exact in double precision; the scope they bring along."""
    scales = {"first": 2.0, "second": 0.7, "": 0.0}
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    for source, scope in ((scales, {}), (tmp_path / "scales.json", {"scope": "layer"}), ("scales.json", {})):
        parameters = make_parameters()
        moved = first_update(NSGDA(parameters.items(), lr=0.1, layer_scales=source, **scope), parameters)
        lengths = [norm(moved, names) for names in BLOCKS["layer"]]
        assert lengths == pytest.approx([0.2, 0.07, 0.0], rel=1e-12)
    parameters["second.weight"].requires_grad_(False).grad = None  # frozen layers need none
    NSGDA(parameters.items(), lr=1.0, layer_scales={"first": 0.3, "": 0.1}).step()
