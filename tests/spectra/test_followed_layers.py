"""Which layers' singular vectors move after a step, and what the others cost."""

import copy
import gc
import threading

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from pcgan_lightning.spectra import (
    followed_layers,
    original_weight,
    power_iterations,
    precondition,
    preconditioners,
    remove_preconditioning,
)
from pcgan_lightning.spectra.followed_layers import FOLLOWED_LAYERS, FollowedLayers


def network(layers=3):
    return precondition(nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers))), 3, "all")


def sgd(*weights):
    for weight in weights:
        weight.grad = torch.randn_like(weight)
    return torch.optim.SGD(weights, lr=0.5)


def moved(net, optimizer):
    """Return the layers whose vectors an optimizer's step moves."""
    before = {name: p.u.clone() for name, p in preconditioners(net).items()}
    optimizer.step()
    return [name for name, p in preconditioners(net).items() if not torch.equal(p.u, before[name])]


@pytest.fixture
def looked_at(monkeypatch):
    """Return a list that fills with the layers whose weight is asked for."""
    layers, weight_of = [], followed_layers.weight_of
    monkeypatch.setattr(followed_layers, "weight_of", lambda layer: layers.append(layer) or weight_of(layer))
    return layers


def test_a_step_looks_at_its_own_layers_alone(looked_at):
    networks = [network() for _ in range(5)]
    other = nn.Parameter(torch.ones(2))
    sgd(other).step()  # takes in the new layers
    looked_at.clear()
    sgd(other).step()
    assert looked_at == []
    sgd(*(original_weight(layer) for layer in networks[2])).step()
    assert looked_at == list(networks[2])


def test_layers_come_in_the_order_of_their_preconditioning(monkeypatch):
    net = network()
    found = []
    monkeypatch.setattr(power_iterations, "_power_iterate", found.extend)
    sgd(*(original_weight(net[i]) for i in (2, 0, 1))).step()
    assert found == list(net)
    # A layer that is taken off and put on again comes last.
    precondition(remove_preconditioning(net[0]), 3, "all")
    found.clear()
    sgd(*(original_weight(net[i]) for i in (2, 0, 1))).step()
    assert found == [net[1], net[2], net[0]]


def test_layers_that_share_a_weight_all_move():
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    net[2].weight = net[0].weight
    precondition(net, 3, "all")
    assert moved(net, sgd(original_weight(net[0]))) == ["0", "2"]


def assign(net):
    net[1].parametrizations.weight.original = nn.Parameter(torch.randn(4, 4))


def load(net):
    net.load_state_dict(network().state_dict(), assign=True)


def convert(net):
    torch.__future__.set_overwrite_module_params_on_conversion(True)
    try:
        net.double()
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def swap(net):
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        net.double()
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def leave_the_meta_device(net):
    net.to("meta").to_empty(device="cpu")
    net.load_state_dict(network().state_dict())


CHANGES = [assign, load, convert, swap, leave_the_meta_device]


@pytest.mark.parametrize("stepped_before", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_another_parameter_takes_the_weights_place(change, stepped_before):
    net = network()
    former = original_weight(net[1])
    if stepped_before:
        sgd(former).step()
    change(net)
    assert moved(net, sgd(original_weight(net[1]))) == ["1"]
    assert change is swap or moved(net, sgd(former)) == []


def test_a_parameter_that_was_stepped_on_before_it_became_a_weight():
    net, weight = network(), nn.Parameter(torch.randn(4, 4))
    optimizer = sgd(weight)
    optimizer.step()
    net[1].parametrizations.weight.original = weight
    assert moved(net, optimizer) == ["1"]


def test_groups_may_change():
    net = network()
    optimizer = sgd(original_weight(net[0]))
    assert moved(net, optimizer) == ["0"]
    original_weight(net[2]).grad = torch.randn(4, 4)
    optimizer.add_param_group({"params": [original_weight(net[2])]})
    assert moved(net, optimizer) == ["0", "2"]
    optimizer.param_groups.pop(0)
    assert moved(net, optimizer) == ["2"]


def test_a_weight_under_another_parametrization_is_left_alone():
    net = network()
    weight = original_weight(net[1])
    parametrizations.weight_norm(remove_preconditioning(net[1]))
    assert moved(net, sgd(weight, original_weight(net[0]))) == ["0"]


def test_dead_layers_are_forgotten(monkeypatch):
    monkeypatch.setattr(followed_layers, "MANY", 10)
    registry = FollowedLayers()
    kept = network(5)
    for layer in kept:
        registry.add(layer)
    for _ in range(20):
        for layer in network(5):
            registry.add(layer)
        registry.of_optimizer(sgd(nn.Parameter(torch.ones(1))))  # takes them in
        del layer
        gc.collect(1)  # parametrized layers and their chains hold each other; they are young
    assert len(registry._by_weight) + len(registry._unsure) < 60
    assert registry.of_optimizer(sgd(*(original_weight(layer) for layer in kept))) == list(kept)


def test_networks_may_change_while_another_thread_steps():
    """Making, copying, converting and taking apart networks beside the steps of others raises nothing."""
    net = network()
    optimizer = sgd(*(original_weight(layer) for layer in net))
    failures, done = [], threading.Event()

    def change_others():
        try:
            for _ in range(40):
                other = copy.deepcopy(network(2)).double()
                remove_preconditioning(other)
                sgd(*other.parameters()).step()
        except Exception as error:
            failures.append(error)
        finally:
            done.set()

    thread = threading.Thread(target=change_others)
    thread.start()
    steps = 0
    while not done.is_set() or steps == 0:
        optimizer.step()
        steps += 1
    thread.join()
    assert failures == []
    assert moved(net, optimizer) == ["0", "1", "2"]


def test_a_copy_in_the_making_is_followed_once_it_is_complete():
    """Another thread may step while a copied layer has no weight yet."""
    net = network()
    steps = []

    class Stepping(nn.Module):
        def __deepcopy__(self, memo):
            steps.append(sgd(nn.Parameter(torch.ones(1))).step())
            return Stepping()

    net[0].register_module("stepping", Stepping())
    replica = copy.deepcopy(net)
    assert len(steps) == 1
    assert moved(replica, sgd(*(original_weight(layer) for layer in replica))) == ["0", "1", "2"]
    assert FOLLOWED_LAYERS.of_optimizer(sgd(original_weight(replica[0]))) == [replica[0]]
