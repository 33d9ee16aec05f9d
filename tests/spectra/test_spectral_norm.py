"""In the place of torch's spectral norm, of either kind."""

import pytest
import torch
from helpers.preconditioned import (
    LAYERS,
    SPECTRAL_NORMS,
    assert_states_equal,
    discriminator,
    input_shape,
    sgd,
    state,
)
from torch import nn
from torch.nn.utils import spectral_norm

from pcgan_lightning.spectra import (
    original_parameters,
    original_weight,
    precondition,
    preconditioners,
    remove_preconditioning,
    singular_values,
)

WEIGHT_KEY = "parametrizations.weight.original"
PC_KEYS = [f"parametrizations.weight.0.{name}" for name in ("u", "v", "_extra_state")]


@pytest.fixture(params=SPECTRAL_NORMS)
def normalise(request):
    return SPECTRAL_NORMS[request.param]


@pytest.mark.parametrize("kind", ["wide linear", "square linear", "conv2d", "transposed2d"])
def test_taking_over_a_spectral_norm(kind, normalise):
    layer = normalise(LAYERS[kind]().double())
    optimizer = sgd(layer, 0.1)
    for _ in range(5):  # until torch's u and v have settled, but not converged
        optimizer.zero_grad()
        x = torch.randn(2, *input_shape(layer), dtype=torch.float64)
        layer(x).square().sum().backward()
        optimizer.step()
    layer.eval()
    parameter = dict(layer.named_parameters())["weight_orig" if normalise is spectral_norm else WEIGHT_KEY]
    u, v = (b.clone() for b in dict(layer.named_buffers()).values())
    expected = layer(x)

    p = preconditioners(precondition(layer, 1, "all"))["weight"]
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-12)
    assert original_weight(layer) is parameter
    assert torch.equal(p.u[0], u)
    assert torch.equal(p.v[0], v)
    assert list(layer.state_dict()) == [WEIGHT_KEY, *PC_KEYS]
    assert not layer._forward_pre_hooks
    assert not layer._state_dict_hooks

    # Torch's no longer iterates; the optimizer's update does.
    before = state(layer)
    layer.train()(x).sum().backward()
    assert_states_equal(state(layer), before)
    sgd(layer).step()
    assert not torch.equal(p.v[0], v)


def test_a_fresh_spectral_norm_has_no_vectors_worth_keeping(normalise):
    # The hook starts from random u and v, and iterates for the first time in its first forward: with these
    # SN(W) would be far above 1, where g explodes. The published g leave room for a tenth.
    layer = precondition(normalise(nn.Conv2d(32, 64, 3)), 9)
    assert singular_values(layer, after_polynomial=False)["weight"].max() < 1.1


# Along another axis, where the channels are as many, the shapes of u and v fit by accident.
@pytest.mark.parametrize(
    ("build", "dim"),
    [
        (lambda: nn.Linear(6, 6), 1),
        (lambda: nn.ConvTranspose2d(6, 6, 2), 0),
        (lambda: nn.Conv2d(6, 4, 2), 1),
        (lambda: nn.Conv2d(6, 6, 2, groups=2), 0),
    ],
)
def test_vectors_of_a_spectral_norm_of_another_matrix_are_not_kept(build, dim, normalise):
    layer = normalise(build().double(), dim=dim)
    layer.train()(torch.ones(1, 6, 6, 6, dtype=torch.float64))
    values = singular_values(precondition(layer, 7, "all"), after_polynomial=False)["weight"]
    assert values.max().item() == pytest.approx(1, abs=1e-12)


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


def test_removing_leaves_other_layers_alone(normalise):
    network = nn.Sequential(nn.Conv2d(1, 2, 2), normalise(nn.Linear(2, 2)), nn.Linear(2, 2))
    keys = set(network.state_dict())
    remove_preconditioning(precondition(network, 3, normalize_rest=False))
    assert set(network.state_dict()) == keys
