"""Every strategy trains exactly, or is refused before training."""

from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from helpers import run_script, strategy_runs
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from pcgan_lightning.callbacks import SpectrumLogger
from pcgan_lightning.modules import check_optimizers, check_strategy, check_whole_networks

RULE = r"argument `strategy` of the trainer must be 'auto' or 'ddp', with which each process keeps "


def trainer_with(strategy, package=pl, **options):
    return package.Trainer(accelerator="cpu", strategy=strategy, logger=False, **options)


def without_trainer(strategy):
    return SimpleNamespace(strategy=strategy, state=SimpleNamespace(fn=None))


@pytest.mark.parametrize("kind", [FSDPStrategy, ModelParallelStrategy, DeepSpeedStrategy])
def test_strategies_that_divide_networks_are_refused(kind):
    strategy = kind.__new__(kind) if kind is DeepSpeedStrategy else kind()  # which asks for its package
    for check in (check_strategy, check_whole_networks):
        with pytest.raises(ValueError, match=rf"{RULE}the whole networks, got {kind.__name__}, which may divide them"):
            check(without_trainer(strategy))
    module = SimpleNamespace(named_modules=lambda: [("discriminator", torch.nn.Linear(2, 2))])
    with pytest.raises(ValueError, match=RULE):
        SpectrumLogger().setup(without_trainer(strategy), module, "fit")


@pytest.mark.parametrize("package", [pl, pytorch_lightning], ids=lambda package: package.__name__)
@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook_find_unused_parameters_true"])
def test_processes_that_keep_their_training_are_refused(name, package):
    trainer = trainer_with(name, package, devices=2)
    with pytest.raises(ValueError, match=rf"{RULE}what it has trained, got one that starts .* '(fork|spawn)'"):
        check_strategy(trainer)
    check_whole_networks(trainer)
    trainer.state.fn = "validate"  # which trains nothing
    check_strategy(trainer)


@pytest.mark.parametrize("package", [pl, pytorch_lightning], ids=lambda package: package.__name__)
@pytest.mark.parametrize("name", ["auto", "ddp", "ddp_find_unused_parameters_true"])
def test_others_are_not(name, package):
    check_strategy(trainer_with(name, package, devices=1 if name == "auto" else 2))


def test_divided_optimizers_are_refused():
    class Divided(torch.optim.SGD):
        def consolidate_state_dict(self, to=0):
            """As torch's ZeroRedundancyOptimizer has it."""

    with pytest.raises(ValueError, match="argument `optimizer` must hold its whole state in each process, got Divided"):
        check_optimizers([Divided(torch.nn.Linear(2, 2).parameters())])


@pytest.mark.ddp
def test_two_processes(tmp_path):
    done = run_script(strategy_runs, tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for kind in ("unused", "views"):  # as exact as plain ddp, bit for bit
        for own in (first, second):  # each process has its own statistics of batch normalisation
            assert all(torch.equal(own[kind][name], value) for name, value in own["ddp"].items()), kind
    assert first["hook"].startswith("argument `ddp_comm_hook` of the strategy must be left out")
    assert first["static"].startswith("argument `static_graph` of the strategy must be left out")
    assert first["zero"].startswith("argument `discriminator_optimizer` must hold its whole state in each process")
    assert first["others"].startswith("argument `optimizer` must hold its whole state in each process")
    assert all(first[kind] == second[kind] for kind in ("hook", "static", "zero", "others"))
    assert "with which each process keeps what it has trained, got one" in torch.load(tmp_path / "fork.pt")
    assert not (tmp_path / "iterations").exists()  # nothing was trained of all that
