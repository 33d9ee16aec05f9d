"""Putting PC-layers on a network, taking them off, and matching a checkpoint."""

import copy
import math

import pytest
import torch
from helpers.preconditioned import (
    CONVOLUTIONS,
    IMAGES,
    SPECTRAL_NORMS,
    assert_one_iteration,
    assert_states_equal,
    assert_vectors_equal,
    degrees,
    discriminator,
    sgd,
    state,
    train,
    vectors,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from pcgan_lightning.spectra import (
    Polynomial,
    as_polynomial,
    chosen_layers,
    match_preconditioning,
    precondition,
    preconditioners,
    remove_preconditioning,
)

MAYBE_NORMALISED = pytest.mark.parametrize("normalise", [lambda layer: layer, *SPECTRAL_NORMS.values()])


@pytest.mark.parametrize(
    ("layers", "chosen", "normalize_rest"),
    [
        ("convolutions", CONVOLUTIONS, True),
        ("all", [*CONVOLUTIONS, "9"], False),
        (["7", "0"], ["0", "7"], False),
        ({"9"}, ["9"], True),
        (lambda name, layer: name > "2" and layer.weight.shape[1] == 4, ["4", "5", "7"], True),
    ],
)
def test_layers(layers, chosen, normalize_rest):
    network = discriminator()
    assert chosen_layers(network, layers) == chosen
    precondition(network, 7, layers, normalize_rest)
    rest = dict.fromkeys([*CONVOLUTIONS, "9"], 1) if normalize_rest else {}
    assert degrees(network) == {**rest, **dict.fromkeys(chosen, 7)}
    assert "Preconditioner(degree=7)" in repr(network)


def test_choosing_no_layer_warns():
    with pytest.warns(UserWarning, match="chooses none of .* polynomial of degree 7 is applied nowhere"):
        assert degrees(precondition(discriminator(), 7, [], normalize_rest=False)) == {}


def test_preconditioning_again_switches_the_degree_and_keeps_the_vectors():
    network = precondition(discriminator())
    assert degrees(network) == {**dict.fromkeys(CONVOLUTIONS, 3), "9": 1}  # by default
    train(network, sgd(network))
    before, start, outputs = state(network), vectors(network), network(IMAGES)
    assert_states_equal(state(precondition(network, 3)), before)

    precondition(network, 9, ["0"], normalize_rest=False)
    assert degrees(network) == {**dict.fromkeys(CONVOLUTIONS, 3), "0": 9, "9": 1}
    assert_vectors_equal(vectors(network), start)
    assert not torch.allclose(network(IMAGES), outputs)

    preconditioners(network)["0"].polynomial = as_polynomial(3)
    assert torch.equal(network(IMAGES), outputs)


# --- What cannot be preconditioned


class Opaque(nn.Module):
    def forward(self, weight):
        return 2 * weight


def linear():
    return nn.Linear(2, 2)


def filled(layer, value, name="weight"):
    getattr(layer, name).data.fill_(value)
    return layer


def doubled(layer):
    parametrize.register_parametrization(layer, "weight", Opaque())
    return layer


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: filled(linear(), 0.0), "its weight must not be zero"),
        (lambda: filled(spectral_norm(linear()), 0.0, "weight_orig"), "its weight must not be zero"),
        (lambda: filled(linear(), math.nan), "its weight must be finite"),
        (lambda: filled(linear(), math.inf), "its weight must be finite"),
        (lambda: nn.LazyLinear(2), "its weight must be an initialised Parameter, got LazyLinear"),
        (lambda: weight_norm(linear()), "its weight must be an initialised Parameter"),
        (lambda: nn.Linear(2, 2, dtype=torch.complex64), "must be of a real floating dtype, got torch.complex64"),
        (lambda: parametrizations.weight_norm(linear()), r"must have no other parametrization, got \['_WeightNorm'\]"),
        (lambda: doubled(linear()), r"must have no other parametrization, got \['Opaque'\]"),
        (lambda: doubled(parametrizations.spectral_norm(linear())), r"got \['_SpectralNorm', 'Opaque'\]"),
    ],
)
def test_a_refused_layer_leaves_the_whole_network_as_it_was(build, message):
    norms = [normalise(linear()) for normalise in SPECTRAL_NORMS.values()]
    network = nn.Sequential(linear(), *norms, build(), nn.Conv2d(1, 1, 1))
    before, modules = list(network.state_dict()), [type(m) for m in network.modules()]
    with pytest.raises(ValueError, match=rf"layer '3' can't be preconditioned: .*{message}"):
        precondition(network, 3, "all")
    assert list(network.state_dict()) == before
    assert [type(m) for m in network.modules()] == modules
    assert degrees(precondition(network, 3, normalize_rest=False)) == {"4": 3}  # a layer left alone is not refused


@pytest.mark.parametrize(
    ("module", "arguments", "message"),
    [
        (discriminator(), {"degree": 2}, r"`degree` must be odd, from 1 to 17, or a Polynomial, got 2"),
        (discriminator(), {"layers": ["0", "8", "1"]}, r"`layers` must name .*, got \['1', '8'\]; it has \['0'"),
        (discriminator(), {"layers": "0"}, "`layers` must be 'convolutions', 'all', a collection .*, got '0'"),
        (nn.Sequential(nn.ReLU()), {}, "`module` must hold a Linear, Conv or ConvTranspose layer, got Sequential"),
    ],
)
def test_refused_arguments(module, arguments, message):
    with pytest.raises(ValueError, match=f"argument {message}"):
        precondition(module, **arguments)
    assert preconditioners(module) == {}


# --- Taking it off


@pytest.mark.parametrize("degree", [1, 7])
def test_removing_folds_the_effective_weights(degree):
    network = discriminator()
    keys, types, parameters = set(network.state_dict()), [type(m) for m in network], set(network.parameters())
    precondition(network, degree)
    optimizer = sgd(network)
    train(network, optimizer)
    outputs = network(IMAGES)
    assert remove_preconditioning(network) is network
    assert torch.equal(network(IMAGES), outputs)
    assert set(network.parameters()) == parameters
    assert set(network.state_dict()) == keys
    assert [type(m) for m in network] == types

    # The optimizer trains on, and the PC-layers can be put on again.
    expected = copy.deepcopy(network)
    train(network, optimizer, 2)
    train(expected, sgd(expected), 2)
    assert_states_equal(state(network), state(expected))
    assert degrees(precondition(network, 5)) == {**dict.fromkeys(CONVOLUTIONS, 5), "9": 1}


def test_removing_from_tied_weights():
    network = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 3))
    network[2].weight = network[0].weight
    precondition(network, 3, "all")
    x = torch.randn(2, 3)
    outputs = network(x)
    assert torch.equal(remove_preconditioning(network)(x), outputs)
    assert network[2].weight is network[0].weight


def test_removing_from_a_copy_leaves_the_original_alone():
    network = precondition(discriminator(), 3)
    outputs = network(IMAGES)
    copied = remove_preconditioning(copy.deepcopy(network))
    torch.testing.assert_close(copied(IMAGES), outputs)
    assert torch.equal(network(IMAGES), outputs)
    assert len(preconditioners(network)) == 6


# --- Checkpoints


@pytest.fixture
def saved(tmp_path):
    """A trained network of mixed degrees, and its state through a file that holds tensors alone."""
    network = precondition(discriminator(), 7, ["0", "2"], normalize_rest=False)
    precondition(network, Polynomial((0.5, 0.25, 0.25)), ["4", "9"], normalize_rest=False)
    train(network, sgd(network))
    torch.save(network.state_dict(), tmp_path / "state.pt")
    return network, torch.load(tmp_path / "state.pt", weights_only=True)


def matched(network, state_dict):
    match_preconditioning(network, {f"discriminator.{k}": v for k, v in state_dict.items()}, "discriminator.")
    return network


# Layer 5 is plain in the checkpoint, layer 4 preconditioned: matching must take off and put on.
@pytest.mark.parametrize(
    ("names", "prepare"),
    [(["0", "2", "4", "9"], lambda network, _: network), (["5", "0"], matched), ([*CONVOLUTIONS, "9"], matched)],
)
def test_a_preconditioned_state_brings_its_polynomials(saved, names, prepare):
    network, state_dict = saved
    fresh = precondition(discriminator(), 3, names, normalize_rest=False)
    parameters = set(fresh.parameters())
    prepare(fresh, state_dict).load_state_dict(state_dict)
    assert set(fresh.parameters()) == parameters
    assert torch.equal(fresh(IMAGES), network(IMAGES))
    ours = Polynomial((0.5, 0.25, 0.25))
    assert {n: p.polynomial for n, p in preconditioners(fresh).items()} == {
        **dict.fromkeys(("0", "2"), as_polynomial(7)),
        **dict.fromkeys(("4", "9"), ours),
    }
    start = vectors(fresh)
    for n in (network, fresh):  # and training resumes exactly
        train(n, sgd(n))
    assert_one_iteration(fresh, start)
    assert_states_equal(state(fresh), state(network))


@MAYBE_NORMALISED
def test_matching_a_network_with_spectral_norms(saved, normalise):
    network, state_dict = saved
    fresh = discriminator()
    for name in ("0", "2", "4", "9"):
        normalise(fresh.get_submodule(name))
    matched(fresh, state_dict).load_state_dict(state_dict)
    assert torch.equal(fresh(IMAGES), network(IMAGES))


def test_matching_looks_under_the_prefix_alone(saved):
    plain, network = discriminator(), precondition(discriminator(), 3)
    match_preconditioning(plain, {f"discriminator.{k}": v for k, v in saved[1].items()})
    match_preconditioning(plain, saved[1], prefix="generator.")
    assert preconditioners(plain) == {}
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


@MAYBE_NORMALISED
def test_a_network_built_without_memory_can_be_loaded(normalise):
    network = precondition(discriminator(), 5)
    with torch.device("meta"):
        fresh = discriminator()
        normalise(fresh[0])
        precondition(fresh, 3)
        assert fresh(IMAGES.to("meta")).shape == (2, 1)
    fresh.to_empty(device="cpu").load_state_dict(network.state_dict())
    assert torch.equal(fresh(IMAGES), network(IMAGES))
