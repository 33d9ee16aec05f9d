"""When and how u and v move."""

import copy
import gc
import weakref

import pytest
import torch
from helpers.preconditioned import (
    assert_one_iteration,
    assert_states_equal,
    assert_vectors_equal,
    discriminator,
    iterated,
    sgd,
    state,
    train,
    vectors,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from pcgan_lightning.spectra import original_weight, power_iteration, precondition, preconditioners, singular_values

OPTIMIZERS = {
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=0.05),
    "sgd, a group for each": lambda parameters: torch.optim.SGD(
        [{"params": [p]} for p in parameters], lr=0.5, momentum=0.9
    ),
    "lbfgs": lambda parameters: torch.optim.LBFGS(parameters, lr=0.1, max_iter=3),
}
EACH_OPTIMIZER = pytest.mark.parametrize("make_optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)


@EACH_OPTIMIZER
def test_each_update_makes_one_power_iteration(make_optimizer):
    network = precondition(discriminator(), 3)
    optimizer = make_optimizer(network.parameters())
    for _ in range(3):
        before = vectors(network)
        train(network, optimizer)
        assert_one_iteration(network, before)


@pytest.mark.parametrize("norm", ["matrix", "operator"])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_weight_that_was_zero_is_followed_again(norm, groups):
    """And whatever it was before, in the same way."""
    layers = [nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", groups=groups, bias=False).double() for _ in "ab"]
    weight = layers[0].weight.detach().clone()
    for layer in layers:
        precondition(layer, 1, "all", norm=norm, input_shape=(4, 5, 5))
        for value in (torch.zeros_like(weight), weight):
            original_weight(layer).data.copy_(value)
            power_iteration(layer)
        power_iteration(layer, 300)
        expected = singular_values(layer, view=norm, input_shape=(4, 5, 5))["weight"].max()
        torch.testing.assert_close(expected, torch.ones_like(expected), rtol=1e-6, atol=0)
    assert_states_equal(*(state(layer) for layer in layers))


@EACH_OPTIMIZER
def test_an_optimizer_made_before_trains_on(make_optimizer):
    # Two equal networks: the optimizer of one is made before, of the other after.
    early = discriminator()
    late = copy.deepcopy(early)
    optimizer = make_optimizer(early.parameters())
    precondition(early, 5), precondition(late, 5)
    start = state(early)
    train(early, optimizer, 3)
    train(late, make_optimizer(late.parameters()), 3)
    for key, value in late.state_dict().items():
        # Equal but for the order in which LBFGS and foreach sum.
        torch.testing.assert_close(early.state_dict()[key], value, rtol=0, atol=1e-10)
        fixed = key.endswith("_extra_state") or key == "9.parametrizations.weight.0.u"  # of a single row: +-1
        assert torch.equal(start[key], value) == fixed, key


def test_only_layers_of_the_stepping_optimizer_move():
    network, other = precondition(discriminator(), 3), precondition(discriminator(), 3)
    biases = [p for name, p in network.named_parameters() if name.endswith("bias")]
    first, last = original_weight(network[0]), original_weight(network[7])
    train(network, sgd(network))  # away from the fixed point at the start, where an iteration would not show
    for parameters, names in [(other.parameters(), ()), (biases, ()), ([first], ["0"]), ([first, last], ["0", "7"])]:
        before = vectors(network)
        train(network, torch.optim.SGD(parameters, lr=0.5))
        assert_one_iteration(network, before, names)


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
    for one, other in ((replica, network), (network, replica)):
        before, start = state(other), vectors(one)
        train(one, sgd(one))
        assert_one_iteration(one, start)
        assert_states_equal(state(other), before)


def test_a_copy_outlives_the_original_and_both_can_be_collected():
    network = precondition(discriminator(), 3)
    replica = copy.deepcopy(network)
    train(network, sgd(network))
    references = [weakref.ref(x) for n in (network, replica) for x in (*n, *n.parameters())]
    del network
    gc.collect()
    start = vectors(replica)
    train(replica, sgd(replica))
    assert_one_iteration(replica, start)
    del replica
    gc.collect()
    assert [r() for r in references if r() is not None] == []


def test_layers_taken_apart_by_hand_do_not_disturb_optimizers():
    layer, other = precondition(nn.Linear(3, 3), 3, "all"), nn.Linear(3, 3)
    parametrize.remove_parametrizations(layer, "weight")
    parametrizations.weight_norm(layer)
    try:
        sgd(other).step()
    finally:  # lest a failure here make every later test fail
        parametrize.remove_parametrizations(layer, "weight")
