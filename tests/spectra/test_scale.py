"""What a PC-layer's g(SN(W)) is multiplied by: nothing, the norm of W, a trainable number."""

import copy

import numpy as np
import pytest
import torch
from helpers.preconditioned import (
    IMAGES,
    LAYERS,
    SPECTRAL_NORMS,
    assert_states_equal,
    discriminator,
    numpy_singular_values,
    sgd,
    state,
    train,
)
from torch import nn

from pcgan_lightning.optim import NSGDA, layer_name
from pcgan_lightning.spectra import (
    Preconditioner,
    as_polynomial,
    lipschitz_bound,
    match_preconditioning,
    modified_condition_number,
    original_parameters,
    original_weight,
    precondition,
    preconditioners,
    remove_preconditioning,
    shared_weights,
    singular_values,
)
from pcgan_lightning.spectra.matrices import MatrixLayout

KINDS = ("unit", "norm", "learnable")


def g(degree, x):
    """A polynomial (tested on its own), by numpy."""
    return sum(c * x ** (2 * t + 1) for t, c in enumerate(as_polynomial(degree).coefficients))


def kinds(network):
    return {p.scale_kind for p in preconditioners(network).values()}


def scales(network):
    return [p.scale for p in preconditioners(network).values()]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("name", "degree"), [("wide linear", 7), ("tall conv2d", 1), ("grouped transposed2d", 5)])
def test_singular_values_are_those_of_the_polynomial_times_the_scale(name, degree, kind):
    layer = LAYERS[name]().double()
    before = numpy_singular_values(layer)
    precondition(layer, degree, "all", scale=kind)
    unit = np.sort(g(degree, before / before[0]))[::-1]
    factors = {"unit": [1.0], "norm": [before[0]], "learnable": [before[0], -2.5, 0.0]}  # it starts at the norm
    for factor in factors[kind]:
        if kind == "learnable" and factor <= 0:
            preconditioners(layer)["weight"].scale.data.fill_(factor)
        # Exact singular vectors: what is left is rounding, times the norm.
        for found in (numpy_singular_values(layer), singular_values(layer)["weight"].numpy()):
            np.testing.assert_allclose(found, np.sort(abs(factor) * unit)[::-1], rtol=0, atol=1e-11)
    before_polynomial = singular_values(layer, after_polynomial=False)["weight"]
    np.testing.assert_allclose(before_polynomial, before / before[0], rtol=0, atol=1e-11)


def test_unit_is_as_ever():
    layer = nn.Conv2d(3, 4, 3)
    weight = layer.weight.detach().clone()
    precondition(layer, 5, scale="unit")
    p = preconditioners(layer)["weight"]
    matrices = weight.flatten(1).unsqueeze(0)
    norm = torch.linalg.vecdot(p.u, (matrices @ p.v.unsqueeze(-1)).squeeze(-1)).amax()
    assert torch.equal(layer.weight, as_polynomial(5).of_matrix(matrices / norm).reshape(weight.shape))
    assert [n.removeprefix("parametrizations.weight.") for n in layer.state_dict()] == [
        *("bias", "original", "0.u", "0.v", "0._extra_state")
    ]
    assert repr(p) == "Preconditioner(degree=5)"
    again = precondition(copy.deepcopy(layer), 5)
    assert_states_equal(state(again), state(layer))


def test_the_norm_alone_gives_back_the_weight_at_degree_1():
    network, plain = discriminator(), discriminator()
    network.load_state_dict(plain.state_dict())
    precondition(network, 1, scale="norm")
    torch.testing.assert_close(network(IMAGES), plain(IMAGES), rtol=1e-12, atol=0)


def of_parts(degree, kind):
    """A function of the weight, and of the scale where there is one, and a weight off the singular vectors."""
    layer = nn.Conv1d(2, 4, 2, groups=2)
    weight = layer.weight.detach().double()
    p = Preconditioner(weight, MatrixLayout.of_layer(layer), as_polynomial(degree))
    p.set_scale(kind, weight)
    moved = (weight + 0.1 * torch.randn_like(weight)).requires_grad_()
    return lambda w, **scale: torch.func.functional_call(p, scale, (w,)), moved, p


def test_derivatives_by_the_weight_and_the_scale():
    function, weight, _ = of_parts(7, "learnable")
    scale = torch.tensor(-1.3, dtype=torch.float64, requires_grad=True)
    both = lambda w, s: function(w, scale=s)  # noqa: E731
    assert torch.autograd.gradcheck(both, (weight, scale))
    assert torch.autograd.gradgradcheck(both, (weight, scale))
    # d/dscale of scale * g is g.
    cotangent = torch.randn_like(weight)
    (slope,) = torch.autograd.grad((cotangent * both(weight, scale)).sum(), scale)
    torch.testing.assert_close(slope, (cotangent * both(weight, torch.ones_like(scale))).sum(), rtol=1e-12, atol=0)


def test_the_norm_is_a_constant_to_the_gradient():
    """By central differences with the factor held; g(SN(W)) knows nothing of the length of W."""
    function, weight, p = of_parts(5, "norm")
    cotangent = torch.randn_like(weight)
    (found,) = torch.autograd.grad((cotangent * function(weight)).sum(), weight)
    norm = p.spectral_norm(p.matrices(weight)).item()
    expected = torch.zeros_like(weight)
    with torch.no_grad():
        for index in np.ndindex(*weight.shape):
            step = torch.zeros_like(weight)
            step[index] = 1e-5
            ends = [
                norm / p.spectral_norm(p.matrices(w)).item() * (cotangent * function(w)).sum()
                for w in (weight + step, weight - step)
            ]
            expected[index] = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-8)  # of the third derivative times 1e-10
        torch.testing.assert_close(function(2 * weight), 2 * function(weight), rtol=1e-12, atol=0)
    assert abs((found * weight).sum().item()) < 1e-12


def test_condition_numbers_know_nothing_of_the_scale():
    networks = {}
    for kind in KINDS:
        torch.manual_seed(0)
        networks[kind] = precondition(discriminator(), 7, scale=kind)
    for scale in scales(networks["learnable"]):
        scale.data.mul_(-3)
    found = {kind: modified_condition_number(network) for kind, network in networks.items()}
    for kind in ("norm", "learnable"):
        torch.testing.assert_close(found[kind], found["unit"], rtol=1e-12, atol=0)


def test_a_lipschitz_bound_has_the_scales_in_it():
    network = precondition(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), 1, "all", scale="learnable")
    for scale in scales(network):
        scale.data.fill_(-3.0)
    assert 9 * (1 - 1e-6) <= lipschitz_bound(network, (6,)).value <= 1.05**2 * 9


@pytest.mark.parametrize("held", [False, True])
def test_the_norm_as_an_operator(held):
    """At degree 1 W / norm * norm is W; the number that is trained starts at the operator's norm, not the matrix's."""
    shape, weight = (2, 6, 6), None
    for kind in ("norm", "learnable"):
        torch.manual_seed(0)
        layer = nn.Conv2d(2, 3, 3, padding=1).double()
        weight = layer.weight.detach().clone()
        precondition(layer, 1, norm="operator", input_shape=shape, hold_norm=held, scale=kind)
        torch.testing.assert_close(layer.weight, weight, rtol=1e-12, atol=0)
    pc_layer = preconditioners(layer)["weight"]
    images = torch.zeros(1, *shape, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: layer(x).flatten(), images).flatten(1)
    assert pc_layer.scale.item() == pytest.approx(torch.linalg.matrix_norm(jacobian, 2).item(), rel=1e-3)
    scale = pc_layer.scale
    precondition(layer, 3, scale="learnable")  # an optimizer may hold it
    assert preconditioners(layer)["weight"].scale is scale
    assert preconditioners(layer)["weight"].u.ndim == 2


# --- Putting on, changing, taking off


def test_refused_before_anything_changes():
    network = discriminator()
    before = list(network.state_dict())
    with pytest.raises(ValueError, match=r"^argument `scale` must be one of .*unit.*norm.*learnable.*, got 'ones'$"):
        precondition(network, 3, scale="ones")
    assert list(network.state_dict()) == before
    precondition(network, 3)
    with pytest.raises(ValueError, match="argument `scale` must be one of"):
        precondition(network, 5, scale="ones")
    assert {p.polynomial.degree for p in preconditioners(network).values()} == {1, 3}


def test_again_changes_the_kind_and_keeps_what_is_trained():
    network = precondition(discriminator(), 3, scale="learnable")
    assert "Preconditioner(degree=3, scale='learnable')" in repr(network)
    train(network, sgd(network))
    before, values = scales(network), [scale.item() for scale in scales(network)]
    precondition(network, 5, scale="learnable")
    assert all(a is b for a, b in zip(scales(network), before, strict=True))
    assert [scale.item() for scale in before] == values
    for kind in ("norm", "unit"):
        assert kinds(precondition(network, 5, scale=kind)) == {kind}
        assert not [key for key in network.state_dict() if key.endswith(".scale")]
    assert not [key for key in network.state_dict() if key.endswith(".keeps_norm")]


@pytest.mark.parametrize("normalise", SPECTRAL_NORMS.values())
def test_in_the_place_of_torchs_spectral_norm(normalise):
    layer = nn.Linear(5, 4, bias=False).double()
    norm = numpy_singular_values(layer)[0]
    precondition(normalise(layer), 3, "all", scale="learnable")
    p = preconditioners(layer)["weight"]
    # Torch's vectors may be up to a tenth off.
    assert norm / 1.1 <= p.scale.item() <= norm * (1 + 1e-12)
    assert p.scale.item() == p.spectral_norm(p.matrices(original_weight(layer))).item()


def test_a_frozen_weight_has_a_frozen_scale():
    layer = nn.Linear(3, 2).requires_grad_(False)
    assert not preconditioners(precondition(layer, 3, "all", scale="learnable"))["weight"].scale.requires_grad


@pytest.mark.parametrize("kind", KINDS)
def test_folding_keeps_the_effective_weights(kind):
    network = discriminator()
    keys, parameters = set(network.state_dict()), set(network.parameters())
    precondition(network, 7, scale=kind)
    assert len(set(network.parameters()) - parameters) == (6 if kind == "learnable" else 0)
    train(network, sgd(network), 2)
    outputs = network(IMAGES)
    remove_preconditioning(network)
    torch.testing.assert_close(network(IMAGES), outputs, rtol=1e-12, atol=1e-14)  # rounding, in another order perhaps
    assert set(network.state_dict()) == keys
    assert set(network.parameters()) == parameters


# --- Training and its state


def adam(network):
    return torch.optim.Adam(original_parameters(network).values(), lr=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_training_is_the_uninterrupted_one(kind, tmp_path):
    network = precondition(discriminator(), 7, scale=kind)
    optimizer = adam(network)
    start = [scale.item() for scale in scales(network) if scale is not None]
    train(network, optimizer, 2)
    assert all(scale.item() != value for scale, value in zip(scales(network), start, strict=False))
    torch.save([network.state_dict(), optimizer.state_dict()], tmp_path / "state.pt")
    saved, moments = torch.load(tmp_path / "state.pt", weights_only=True)

    fresh = discriminator()
    match_preconditioning(fresh, saved)
    fresh.load_state_dict(saved)
    assert kinds(fresh) == {kind}
    other = adam(fresh)
    other.load_state_dict(moments)
    for n, o in ((network, optimizer), (fresh, other)):
        train(n, o, 2)
    assert_states_equal(state(fresh), state(network))

    # From any kind to any other.
    for before in KINDS:
        changed = precondition(discriminator(), 3, scale=before)
        match_preconditioning(changed, saved)
        changed.load_state_dict(saved)
        assert kinds(changed) == {kind}
        if before != kind:
            with pytest.raises(RuntimeError, match=r"(Missing|Unexpected) key"):
                precondition(discriminator(), 3, scale=before).load_state_dict(saved)


def test_names_of_scales():
    network = precondition(discriminator(), 3, scale="learnable")
    names = [name for name in original_parameters(network) if name.endswith("scale")]
    assert [layer_name(name) for name in names] == ["0", "2", "4", "5", "7", "9"]
    assert list(map(id, original_parameters(network).values())) != []
    assert set(original_parameters(network).values()) == set(network.parameters())
    # "layer": one norm for a layer's weight, bias and scale together.
    optimizer = NSGDA(list(original_parameters(network).items()), lr=1.0, scope="layer")
    before = {name: p.detach().clone() for name, p in original_parameters(network).items()}
    train(network, optimizer)
    moved = [p - before[name] for name, p in original_parameters(network).items() if layer_name(name) == "5"]
    assert len(moved) == 3
    assert sum(m.square().sum().item() for m in moved) == pytest.approx(1, rel=1e-6)


def test_a_copy_trains_its_own_scales():
    network = precondition(discriminator(), 3, scale="learnable")
    copied, before = copy.deepcopy(network), state(network)
    train(copied, sgd(copied))
    assert_states_equal(state(network), before)
    train(network, sgd(network))
    assert_states_equal(state(network), state(copied))


@pytest.mark.parametrize("kind", ["norm", "learnable"])
def test_half_precision_and_autocast(kind):
    layer = precondition(LAYERS["wide linear"](), 9, "all", scale=kind)
    expected = layer.weight
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(layer.weight, expected)
    layer = layer.bfloat16()
    exact = copy.deepcopy(layer).double()
    assert {p.dtype for p in layer.parameters()} == {layer.weight.dtype} == {torch.bfloat16}
    # Two roundings to half precision, on top of the error of float32.
    torch.testing.assert_close(layer.weight.double(), exact.weight, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("kind", ["norm", "learnable"])
def test_shared_weights_see_a_changed_scale(kind):
    """What is shared is g(SN(W))."""
    layer = precondition(nn.Linear(3, 2).double(), 3, "all", scale=kind)
    pc_layer, weight = preconditioners(layer)["weight"], original_weight(layer)
    with shared_weights():
        first = layer.weight.detach().clone()
        with torch.no_grad():
            (weight if kind == "norm" else pc_layer.scale).mul_(2)
        torch.testing.assert_close(layer.weight, 2 * first, rtol=1e-12, atol=0)
        weight.requires_grad_(False)
        assert layer.weight.requires_grad == (kind == "learnable")
        pc_layer.set_scale("unit", weight)
        assert torch.equal(layer.weight, copy.deepcopy(layer).weight)
    assert not torch.allclose(layer.weight, 2 * first)
