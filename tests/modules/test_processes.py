"""n processes with a part of the batch each compute what one computes on the whole batch."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import distributed_runs, run_script, unused_port
from helpers.distributed_runs import ITERATIONS, PRECISIONS, rules
from torch import nn

from pcgan_lightning.callbacks import AdaptivePreconditioning
from pcgan_lightning.networks import SynchronizedBatchNorm
from pcgan_lightning.spectra import precondition, preconditioners


def difference(state, other):
    """The length of the difference over the length of the first, all tensors together."""
    pairs = [(state[name].double(), other[name].double()) for name in state]
    return (sum((a - b).square().sum() for a, b in pairs) / sum(a.square().sum() for a, _ in pairs)).sqrt().item()


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each process of one, two and four found; from a fresh one, since autograd is not to be forked in use."""
    folder = tmp_path_factory.mktemp("processes")
    run_script(distributed_runs, folder, check=True)
    return {n: [torch.load(folder / f"{n}_{rank}.pt") for rank in range(n)] for n in PRECISIONS}


@pytest.mark.ddp
@pytest.mark.parametrize("processes", [2, 4])
def test_every_rule_on_several_processes(results, processes):
    (alone,), found = results[1], results[processes]
    differences = {}
    for rule in rules(processes):
        for precision in PRECISIONS[processes]:
            whole, parts = alone[rule, precision], [own[rule, precision] for own in found]
            differences[rule, precision] = difference(whole["state"], parts[0]["state"])
            for part in parts:
                # Every process does the very same, whatever it was given.
                assert all(torch.equal(part["state"][name], value) for name, value in parts[0]["state"].items()), rule
                assert part["degrees"] == whole["degrees"], rule
            for latents, *own in zip(whole["latents"], *[part["latents"] for part in parts], strict=True):
                # One stream, sliced; where a process's slice is that of another, their gradients would be the same.
                assert torch.equal(latents, torch.cat(own)), rule
    # Rounding: float32 has 6e-8, float64 1e-16; 20 iterations of Adam make more of it.
    bounds = {"32-true": 1e-5, "64-true": 1e-11}
    assert {key: d for key, d in differences.items() if not d < bounds[key[1]]} == {}
    assert len({str(degrees) for degrees in alone["apc", "64-true"]["degrees"]}) > 1

    # An update exchanges its own player's gradients, once, and nothing else.
    state = found[-1]["hinge", precision]["state"]
    sizes = [sum(v.numel() for k, v in state.items() if k.startswith(p)) for p in ("discriminator", "generator")]
    assert found[-1]["hinge", precision]["messages"] == sizes * ITERATIONS
    discriminator, generator = sizes
    turns = [discriminator] * 2 + [generator] * 3
    assert found[-1]["more_steps", precision]["messages"] == turns * ITERATIONS

    # Each image of an evaluation has its own latents, whoever evaluates it.
    assert found[-1]["validation", precision] == pytest.approx(alone["validation", precision], rel=bounds[precision])


@pytest.fixture
def one_process(monkeypatch):
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{unused_port()}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("momentum", [0.3, None])
@pytest.mark.parametrize("shape", [(6, 3), (4, 3, 5), (4, 3, 2, 2)])
def test_batch_norm_over_one_process_is_torchs(one_process, shape, momentum):
    torch.manual_seed(0)
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    torchs = kind(3, momentum=momentum).double()
    nn.init.normal_(torchs.weight)
    own = copy.deepcopy(torchs)
    SynchronizedBatchNorm.take_over(own)
    results = []
    for layer in (torchs, own):
        images = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).sin().view(shape).requires_grad_()
        for factor in (1, 2):
            out = layer(factor * images)
        (first,) = torch.autograd.grad(out.square().sum() + out[0].exp().sum(), images, create_graph=True)
        second = torch.autograd.grad(first.square().sum(), [images, layer.weight])
        results.append([out, first, *second, *layer.buffers(), layer.eval()(images)])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)  # float64: 1e-7 relative
    with pytest.raises(ValueError, match=r"argument `input` must have shape \[N, C, ...\]"):
        own(torch.zeros(3))


def test_first_process_decides_on_degrees():
    """Where the numbers of two processes lie on two sides of a threshold, those of the first one count."""
    apc = AdaptivePreconditioning()
    network = precondition(nn.Sequential(nn.Conv2d(3, 4, 3)), 1)
    module = nn.ModuleDict({"discriminator": network})

    class Strategy:
        def broadcast(self, measured):
            assert len(measured) == 1
            return [[12.0]]

    trainer = SimpleNamespace(strategy=Strategy(), loggers=[], callback_metrics={})
    apc.adapt(trainer, module)
    assert preconditioners(network)["0"].polynomial.degree == 5
    assert apc.measurements == {"0": [12.0]}
