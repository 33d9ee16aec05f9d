"""Normalised and grafted optimizers against steps written by hand in numpy."""

import copy
import json
import re
from functools import partial

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


def make_parameters(dtype=torch.float64):
    rng = np.random.default_rng(0)
    return {name: nn.Parameter(torch.tensor(rng.normal(size=shape), dtype=dtype)) for name, shape in SHAPES.items()}


def make_gradients(steps, dtype=torch.float64):
    """Of very different sizes, from tensor to tensor and from step to step."""
    rng = np.random.default_rng(1)
    sizes = dict(zip(SHAPES, (1.0, 1e-3, 30.0, 0.2), strict=True))
    return [
        {n: torch.tensor(sizes[n] * 2.0**-k * rng.normal(size=s), dtype=dtype) for n, s in SHAPES.items()}
        for k in range(steps)
    ]


def run(optimizer, parameters, gradients):
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = None if step.get(name) is None else step[name].clone()
        optimizer.step()
    return {name: p.detach().numpy() for name, p in parameters.items()}


def norm(tensors, names):
    return np.sqrt(sum((tensors[n] ** 2).sum() for n in names))


class NumpyOracle:
    """Adam's oracle for one tensor after another."""

    def __init__(self, kind, beta1, beta2, eps):
        self.kind, self.beta1, self.beta2, self.eps = kind, beta1, beta2, eps
        self.first, self.second, self.steps = {}, {}, {}

    def __call__(self, name, g):
        b1, b2 = self.beta1, self.beta2
        a, c = (1 - b1, 1 - b2) if self.kind == "adam" else (1.0, 1.0)
        self.first[name] = b1 * self.first.get(name, 0.0) + a * g
        self.second[name] = b2 * self.second.get(name, 0.0) + c * g**2
        self.steps[name] = k = self.steps.get(name, 0) + 1
        if self.kind == "adam":
            return self.first[name] / (1 - b1**k) / (np.sqrt(self.second[name] / (1 - b2**k)) + self.eps)
        return self.first[name] / np.sqrt(self.second[name] + self.eps)


def by_hand(rule, gradients, scope, lr, eps=0.0, oracle=None, sign=-1.0):
    """Parameters after steps in float64."""
    weights = {name: p.detach().double().numpy().copy() for name, p in make_parameters().items()}
    for step in gradients:
        g = {name: value.double().numpy() for name, value in step.items()}
        adaptive = {name: oracle(name, value) for name, value in g.items()} if oracle else None
        for names in BLOCKS[scope]:
            for name in names:
                if rule == "nsgda":
                    move = g[name] / (norm(g, names) + eps)
                elif rule == "ada_nsgda":
                    move = norm(adaptive, names) * g[name] / (norm(g, names) + eps)
                else:
                    move = norm(g, names) * adaptive[name] / (norm(adaptive, names) + eps)
                weights[name] += sign * lr * move
    return weights


def assert_close(found, expected, dtype):
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
    expected = by_hand("nsgda", gradients, scope, 0.05, eps, sign=1.0 if maximize else -1.0)
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
    rule = {AdaNSGDA: "ada_nsgda", AdaDir: "ada_dir"}[kind]
    expected = by_hand(rule, gradients, scope, 0.02, 1e-3, NumpyOracle(oracle, *betas, 1e-3))
    assert_close(run(optimizer, parameters, gradients), expected, dtype)


@SCOPES
def test_grafts_of_adam_and_sgd_are_ada_nsgda_and_ada_dir(scope):
    adam = lambda p: torch.optim.Adam(p, lr=0.02, betas=(0.5, 0.99), eps=0.0)  # noqa: E731
    sgd = lambda p: torch.optim.SGD(p, lr=0.02)  # noqa: E731
    longer = lambda p: torch.optim.SGD(p, lr=7.0)  # noqa: E731  # as a direction its length does not matter
    for kind, magnitude, direction in ((AdaNSGDA, adam, longer), (AdaDir, sgd, adam)):
        own, grafted = make_parameters(), make_parameters()
        ada = kind(own.items(), lr=0.02, betas=(0.5, 0.99), eps=0.0, scope=scope)
        graft = Grafted(grafted.items(), magnitude, direction, scope=scope)
        gradients = make_gradients(5)
        assert_close(run(graft, grafted, gradients), run(ada, own, gradients), torch.float64)


@pytest.mark.parametrize(
    ("scope", "magnitude"),
    [("global", torch.optim.Adam), ("layer", torch.optim.RMSprop), ("tensor", torch.optim.Adagrad)],
)
def test_length_and_direction_of_a_grafted_step(scope, magnitude):
    """Block by block the length of one optimizer's own step, along the other's."""
    parameters, alone, along = make_parameters(), make_parameters(), make_parameters()
    graft = Grafted(parameters.items(), lambda p: magnitude(p, lr=0.1), lambda p: torch.optim.Rprop(p), scope=scope)
    longer, other = magnitude(alone.values(), lr=0.1), torch.optim.Rprop(along.values())
    for gradients in make_gradients(3):
        before = [{n: p.detach().numpy().copy() for n, p in ps.items()} for ps in (parameters, alone, along)]
        after = [run(o, p, [gradients]) for o, p in ((graft, parameters), (longer, alone), (other, along))]
        step, length, direction = ({n: a[n] - b[n] for n in SHAPES} for a, b in zip(after, before, strict=True))
        for names in BLOCKS[scope]:
            assert norm(step, names) == pytest.approx(norm(length, names), rel=1e-12)
            for name in names:
                scale = norm(length, names) / norm(direction, names)
                np.testing.assert_allclose(step[name], scale * direction[name], rtol=1e-9, atol=1e-12)


def every_optimizer(parameters, **kwargs):
    return {
        "NSGDA": lambda: NSGDA(parameters, lr=0.1, **kwargs),
        "AdaNSGDA": lambda: AdaNSGDA(parameters, lr=0.1, **kwargs),
        "AdaDir": lambda: AdaDir(parameters, lr=0.1, **kwargs),
        "Grafted": lambda: Grafted(
            parameters,
            lambda p: torch.optim.Adam(p, lr=0.1),
            lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9),
            **kwargs,
        ),
    }


OPTIMIZERS = pytest.mark.parametrize("kind", every_optimizer([]))


@OPTIMIZERS
@pytest.mark.parametrize("scope", ["layer", "tensor"])
def test_zero_gradients_make_zero_steps(kind, scope):
    parameters = make_parameters(torch.float32)
    optimizer = every_optimizer(parameters.items(), scope=scope, eps=0.0)[kind]()
    found = run(optimizer, parameters, [{n: torch.zeros(s) for n, s in SHAPES.items()}] * 2)
    for name, value in make_parameters(torch.float32).items():
        np.testing.assert_array_equal(found[name], value.detach().numpy())


@OPTIMIZERS
def test_single_zeros_in_a_gradient(kind):
    """Entries whose gradient was always 0 stay, and the others move."""
    weight = nn.Parameter(torch.ones(3))
    run(every_optimizer([weight], eps=0.0)[kind](), {"w": weight}, [{"w": torch.tensor([0.5, 0.0, -0.5])}] * 2)
    assert weight[1] == 1
    assert weight[0] < 1 < weight[2]


@OPTIMIZERS
def test_parameters_without_gradient_stay(kind):
    parameters = make_parameters()
    gradients = make_gradients(2)
    del gradients[0]["second.weight"], gradients[1]["second.weight"], gradients[1]["alone"]
    before = parameters["second.weight"].detach().clone()
    run(every_optimizer(parameters.items())[kind](), parameters, gradients)
    assert torch.equal(parameters["second.weight"], before)
    alone = make_parameters()["alone"].detach()
    assert not torch.equal(parameters["alone"], alone)


@OPTIMIZERS
def test_closure(kind):
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = every_optimizer([weight])[kind]()

    def closure():
        optimizer.zero_grad()
        loss = (weight**2).sum() / 2
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 12.5
    # Everything here moves straight to 0, by its own length.
    torch.testing.assert_close(weight / weight.norm(), torch.tensor([0.6, 0.8]), atol=0.2, rtol=0.0)
    assert weight.norm() < 5


@OPTIMIZERS
@SCOPES
def test_saved_and_copied_state_goes_on_bit_by_bit(kind, scope, tmp_path):
    gradients, parameters = make_gradients(6), make_parameters()
    optimizer = every_optimizer(parameters.items(), scope=scope)[kind]()
    run(optimizer, parameters, gradients[:3])
    torch.save(optimizer.state_dict(), tmp_path / "state.pt")
    copied, copied_parameters = copy.deepcopy((optimizer, parameters))
    second = copy.deepcopy(parameters)
    resumed = every_optimizer(second.items(), scope=scope)[kind]()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    expected = run(optimizer, parameters, gradients[3:])
    for other, own in ((resumed, second), (copied, copied_parameters)):
        for name, value in run(other, own, gradients[3:]).items():
            np.testing.assert_array_equal(value, expected[name])


@OPTIMIZERS
def test_schedulers_move_the_step(kind):
    """Half the learning rate is half the step."""
    steps = []
    for factor in (1.0, 0.5):
        parameters = make_parameters()
        optimizer = every_optimizer(parameters.items())[kind]()
        torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _, factor=factor: factor)
        found = run(optimizer, parameters, make_gradients(1))
        steps.append({n: found[n] - p.detach().numpy() for n, p in make_parameters().items()})
    for name in SHAPES:
        np.testing.assert_allclose(steps[1][name], steps[0][name] / 2, rtol=1e-10, atol=1e-14)


def test_groups_with_their_own_learning_rates():
    """One norm over both groups where the scope is global."""
    a, b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    NSGDA([{"params": [a], "lr": 1.0}, {"params": [b], "lr": 10.0, "maximize": True}]).step()
    torch.testing.assert_close(a.data, torch.tensor([-0.6, 0.0]))
    torch.testing.assert_close(b.data, torch.tensor([0.0, 8.0]))


def test_layer_names():
    names = ("weight", "a.b.weight", "a.b.parametrizations.weight.original", "a.parametrizations.weight.original0")
    assert [layer_name(name) for name in names] == ["", "a.b", "a.b", "a"]


@pytest.mark.parametrize("put_on", [lambda net: precondition(net, 3, "all"), lambda net: spectral_norm(net[0])])
def test_layers_are_the_same_with_and_without_parametrizations(put_on):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    put_on(network)
    optimizer = NSGDA(network.named_parameters(), lr=0.1, scope="layer")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    network(torch.randn(5, 3)).sum().backward()
    optimizer.step()
    moved = {}
    for name, p in network.named_parameters():
        moved.setdefault(name.partition(".")[0], []).append((p - before[name]).norm().item())
    for lengths in moved.values():
        assert len(lengths) == 2  # weight and bias
        assert np.hypot(*lengths) == pytest.approx(0.1, rel=1e-5)


def test_layer_scales(tmp_path):
    """Lengths of the layers' steps, exact in double precision; the scope they bring along."""
    scales = {"first": 2.0, "second": 0.7, "": 0.0}
    (tmp_path / "scales.json").write_text(json.dumps(scales))
    for source, scope in ((scales, {}), (tmp_path / "scales.json", {"scope": "layer"}), ("scales.json", {})):
        parameters = make_parameters()
        found = run(NSGDA(parameters.items(), lr=0.1, layer_scales=source, **scope), parameters, make_gradients(1))
        moved = {n: found[n] - p.detach().numpy() for n, p in make_parameters().items()}
        lengths = [norm(moved, names) for names in BLOCKS["layer"]]
        assert lengths == pytest.approx([0.2, 0.07, 0.0], rel=1e-12)


FIRST = "first.weight", nn.Parameter(torch.zeros(2))
SECOND = "second.weight", nn.Parameter(torch.zeros(2))
SCALES = "argument `layer_scales` must"


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ("missing.json", f"{SCALES} be a JSON file, got .*missing.json, which does not exist"),
        (".", f"{SCALES} be a JSON file, got .*, which is a folder"),
        ("{", f"{SCALES} be a JSON file, got .*: Expecting"),
        ("[1, 2]", f"{SCALES} be a JSON mapping of layers to numbers"),
        ('{"first": "two"}', f"{SCALES} map layers to numbers"),
        ({"first": 1.0, "third": 1.0}, r"got none for \['second'\] and some for unknown \['third'\]"),
        ({"first": -1.0, "second": 1.0}, r"argument `layer_scales\['first'\]` must not be negative, got -1.0"),
    ],
)
def test_scales_that_do_not_fit(scales, message, tmp_path):
    if isinstance(scales, str) and scales[0] in "{[":
        (tmp_path / "scales.json").write_text(scales)
        scales = "scales.json"
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        NSGDA([FIRST, SECOND], layer_scales=scales)


@OPTIMIZERS
@pytest.mark.parametrize(
    ("parameters", "arguments", "message"),
    [
        ([FIRST], {"eps": -1.0}, "argument `eps` must not be negative, got -1"),
        ([FIRST], {"scope": "net"}, "argument `scope` must be one of global, layer, tensor, got 'net'"),
        ([FIRST[1]], {"scope": "layer"}, "argument `params` must be named for scope 'layer'"),
    ],
)
def test_wrong_arguments_of_all(kind, parameters, arguments, message):
    with pytest.raises(ValueError, match=message):
        every_optimizer(parameters, **arguments)[kind]()


SGD = partial(torch.optim.SGD, lr=1.0)
LR, BETA = "argument `lr` must not be negative, got -0.1", "argument `betas[1]` must be in [0, 1), got 1.0"
TWICE = [{"params": [FIRST]}, {"params": [(FIRST[0], SECOND[1])]}]
LATE = NSGDA([FIRST], layer_scales={"first": 1.0})
ORACLE = "argument `oracle` must be one of adam, paper, got 'adamw'"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NSGDA([FIRST], lr=-0.1), LR),
        (lambda: AdaNSGDA([FIRST], lr=-0.1), LR),
        (lambda: AdaDir([FIRST], lr=-0.1), LR),
        (lambda: NSGDA([FIRST], lr=float("inf")), "argument `lr` must be finite, got inf"),
        (lambda: AdaNSGDA([FIRST], betas=(0.0, 1.0)), BETA),
        (lambda: AdaDir([FIRST], betas=(0.0, 1.0)), BETA),
        (lambda: AdaNSGDA([{"params": [FIRST], "betas": (2.0, 0.9)}]), "`betas[0]` must be in [0, 1), got 2.0"),
        (lambda: AdaNSGDA([FIRST], betas=(0.0, 0.5, 0.9)), "`betas` must be two numbers, got (0.0, 0.5, 0.9)"),
        (lambda: AdaNSGDA([FIRST], oracle="adamw"), ORACLE),
        (lambda: AdaDir([FIRST], oracle="adamw"), ORACLE),
        (lambda: Grafted([FIRST], torch.optim.AdamW, SGD), "`magnitude` must not decay weights, got AdamW that does"),
        (lambda: Grafted([{"params": [FIRST], "betas": 0.9}], SGD, SGD), "groups with `lr` and `eps` alone, got betas"),
        (
            lambda: NSGDA(TWICE, scope="layer"),
            "`params` must have names of their own, got 'first.weight' in two groups",
        ),
        (lambda: NSGDA([FIRST[1]], layer_scales={"first": 1.0}), "named for scope 'layer' and for layer scales"),
        (lambda: LATE.add_param_group({"params": [SECOND]}), "NSGDA with `layer_scales` takes no further parameters"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises((ValueError, NotImplementedError), match=re.escape(message)):
        make()


@OPTIMIZERS
def test_sparse_gradients(kind):
    embedding = nn.Embedding(5, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    optimizer = every_optimizer(list(embedding.parameters()))[kind]()
    with pytest.raises(ValueError, match="argument `params` must have dense gradients, got sparse ones"):
        optimizer.step()


def test_half_precision_gradients_have_norms_in_float32():
    """Squares of 300 overflow float16; the norm is 300 * sqrt(100)."""
    weight = nn.Parameter(torch.zeros(100, dtype=torch.float16))
    weight.grad = torch.full((100,), 300.0, dtype=torch.float16)
    NSGDA([weight], lr=1.0).step()
    torch.testing.assert_close(weight.data, torch.full((100,), -0.1, dtype=torch.float16), rtol=1e-3, atol=0.0)


@SCOPES
def test_groups_in_double_precision(scope):
    """Numbers of groups must not pass through float32."""
    parameters, gradients = make_parameters(), make_gradients(1)
    options = {name: {"lr": 0.1 * k + 0.03, "eps": 0.1 * k} for k, name in enumerate(SHAPES)}
    groups = [{"params": [(name, p)], **options[name]} for name, p in parameters.items()]
    before = {name: p.detach().numpy().copy() for name, p in parameters.items()}
    found = run(NSGDA(groups, scope=scope), parameters, gradients)
    g = {name: value.numpy() for name, value in gradients[0].items()}
    for names in BLOCKS[scope]:
        for name in names:
            step = options[name]["lr"] * g[name] / (norm(g, names) + options[name]["eps"])
            np.testing.assert_allclose(found[name], before[name] - step, rtol=1e-14, atol=1e-15)


def test_frozen_layers_need_no_scale():
    parameters = make_parameters()
    parameters["second.weight"].requires_grad_(False)
    optimizer = NSGDA(parameters.items(), lr=1.0, layer_scales={"first": 0.3, "": 0.1})
    gradients = make_gradients(1)
    gradients[0]["second.weight"] = None
    run(optimizer, parameters, gradients)


def test_groups_of_a_graft():
    """The learning rate of a group is that of the magnitude."""
    a, b = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    a.grad, b.grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    Grafted([{"params": [a], "lr": 0.5}, {"params": [b]}], SGD, SGD, scope="tensor").step()
    torch.testing.assert_close(a.data, torch.tensor([-1.5, -2.0]))
    torch.testing.assert_close(b.data, torch.tensor([0.0, -2.0]))


@pytest.mark.parametrize("kind", [AdaNSGDA, AdaDir])
@pytest.mark.parametrize("oracle", ["adam", "paper"])
def test_half_precision(kind, oracle):
    """eps = 1e-8 is 0 in float16; the oracle is made in float32."""
    weights = [nn.Parameter(torch.zeros(2, dtype=dtype)) for dtype in (torch.float32, torch.float16)]
    for w in weights:
        w.grad = torch.tensor([1e-2, 0.0], dtype=w.dtype)
        kind([w], lr=0.1, oracle=oracle).step()
    # The square of the gradient, 1e-7 in the moment, is a subnormal number of float16 with few digits.
    torch.testing.assert_close(weights[1].float(), weights[0], rtol=0.2, atol=0.0)


@pytest.mark.parametrize("eps", [0.0, 1e-8])
def test_gradients_whose_square_vanishes(eps):
    """The first entry must not blow the step up: its part of A is bounded by that of any other entry, 1."""
    weight = nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([1e-24, 1e-3])
    AdaNSGDA([weight], lr=0.1, betas=(0.0, 0.999), eps=eps).step()
    assert weight.norm().item() == pytest.approx(0.1, rel=1e-4)


def test_parameters_of_several_dtypes():
    """In either order; one norm over all."""
    for dtypes in ((torch.float32, torch.float64), (torch.float64, torch.float32), (torch.bfloat16, torch.float64)):
        weights = [nn.Parameter(torch.zeros(1, dtype=dtype)) for dtype in dtypes]
        for w, g in zip(weights, (3.0, 4.0), strict=True):
            w.grad = torch.full_like(w, g)
        NSGDA(weights, lr=1.0).step()
        assert [w.item() for w in weights] == pytest.approx([-0.6, -0.8], rel=1e-2)
