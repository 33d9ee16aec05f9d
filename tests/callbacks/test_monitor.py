"""The base of the monitors, by one of our own, and what all monitors share."""

import csv
import re

import lightning.pytorch
import pytest
import torch
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_classifier, make_two_player_gan
from lightning.pytorch.loggers import CSVLogger
from matplotlib.figure import Figure
from torch.nn.functional import softplus

from pcgan_lightning.callbacks import (
    AdaptiveMagnitudeLogger,
    BalanceLogger,
    CollapseMonitor,
    JacobianSpectrumLogger,
    ModeLogger,
    Monitor,
    SampleGridLogger,
    ScoreLogger,
    SpectrumLogger,
)
from pcgan_lightning.data import MixtureOfGaussians
from pcgan_lightning.losses import NonSaturatingLoss
from pcgan_lightning.metrics import ModuleFeatures
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator


class WeightNormLogger(Monitor):
    """All that a monitor of one's own takes."""

    first, prefix = 0, "norm/"

    def __init__(self, every_n_steps=100, target="discriminator"):
        super().__init__(every_n_steps, [target])

    def measure(self, trainer, pl_module, batch):
        (network,) = self.networks(pl_module).values()
        return {"mean": torch.stack([p.norm() for p in network.parameters()]).mean().item()}

    def figures(self):
        figure = Figure()
        figure.subplots().plot(self.series["iteration"], self.series["mean"])
        return {"weights": figure}


class CarelessGAN(GAN):
    """Its samples draw random numbers, and change the generator's mode."""

    def sample_images(self, latents, averaged=True):
        torch.rand(3)
        self.generator.eval()
        return super().sample_images(latents, averaged)


def gan_of_points():
    torch.manual_seed(1)
    networks = MLPGenerator(latent_dim=3, width=4, hidden_layers=1), MLPDiscriminator(width=4, hidden_layers=1)
    return CarelessGAN(*networks, NonSaturatingLoss(), ema_decay=0.5)


def points():
    return MixtureOfGaussians(batch_size=8, std=0.5, seed=0)


def all_monitors():
    """Every monitor that can look at points; ScoreLogger has tests of its own."""
    collapse = CollapseMonitor(2, patience=100, condition_every_n_steps=1)
    players = [AdaptiveMagnitudeLogger(2), BalanceLogger(2), JacobianSpectrumLogger(2, samples=4)]
    return [WeightNormLogger(2), SpectrumLogger(2), SampleGridLogger(2), ModeLogger(2, count=50), collapse, *players]


def test_a_monitor_of_ones_own(tmp_path, fit):
    monitor, gan = WeightNormLogger(3), gan_of_points()
    initial = torch.stack([p.norm() for p in gan.discriminator.parameters()]).mean().item()
    trainer = fit(gan, [monitor], points(), logger=CSVLogger(tmp_path, name="", version=""))
    assert monitor.series["iteration"] == [0, 3, 6, 7]
    assert monitor.series["mean"][0] == initial
    with (tmp_path / "metrics.csv").open() as file:
        rows = [(int(float(r["step"])), float(r["norm/mean"])) for r in csv.DictReader(file) if r["norm/mean"]]
    assert rows == list(zip(*monitor.series.values(), strict=True))
    assert trainer.callback_metrics["norm/mean"].item() == pytest.approx(monitor.series["mean"][-1])
    assert (tmp_path / "norm" / "weights.png").is_file()


def test_where_a_run_stopped_is_forgotten(tmp_path, fit):
    """By a checkpoint, and by the same object in a further run."""
    monitor, gan = WeightNormLogger(3), gan_of_points()
    fit(gan, [monitor], points()).save_checkpoint(tmp_path / "seven.ckpt")
    (state,) = torch.load(tmp_path / "seven.ckpt", weights_only=True)["callbacks"].values()
    assert state == {"series": {key: values[:-1] for key, values in monitor.series.items()}}
    fit(gan, [monitor], points(), max_steps=2)
    assert monitor.series["iteration"] == [0, 3, 6, 0, 2]


def test_training_is_the_same_with_and_without(fit):
    """Weights, modes, and the state of torch's randomness."""
    results = []
    for callbacks in ([], all_monitors()):
        gan = gan_of_points()
        fit(gan, callbacks, points())
        results.append((gan.state_dict(), torch.get_rng_state(), [m.training for m in gan.modules()]))
    (weights, state, modes), (others, other_state, other_modes) = results
    assert all(weights[name].equal(others[name]) for name in weights)
    assert state.equal(other_state)
    assert modes == other_modes


@pytest.mark.slow
def test_resumed_series_are_whole(tmp_path, fit):
    whole, first, resumed = all_monitors(), all_monitors(), all_monitors()
    fit(gan_of_points(), whole, points(), max_steps=8)
    fit(gan_of_points(), first, points(), max_steps=5).save_checkpoint(tmp_path / "five.ckpt")
    fit(gan_of_points(), resumed, points(), max_steps=8, ckpt_path=tmp_path / "five.ckpt")
    begins = {"WeightNormLogger": [0], "SpectrumLogger": [0], "JacobianSpectrumLogger": [1], "BalanceLogger": [1]}
    for a, b in zip(whole, resumed, strict=True):
        assert a.state_dict() == b.state_dict()
        if a.state_dict() and "iteration" in a.state_dict().get("series", {}):
            assert a.series["iteration"] == [*begins.get(type(a).__name__, []), 2, 4, 6, 8]


@BOTH_NAMES
def test_modules_of_others(pl, fit):
    """Either package, two optimizers: Lightning's steps count both, the monitors' iterations do not."""
    latents = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))

    def losses(module, batch):
        real, fake = module.discriminator(batch[0][:4]), module.discriminator(module.generator(latents))
        return softplus(-fake).mean(), (softplus(-real) + softplus(fake)).mean()

    weights = []
    spectrum, balance, magnitudes = SpectrumLogger(2), BalanceLogger(2), AdaptiveMagnitudeLogger(2)
    jacobian = JacobianSpectrumLogger(4, count=1, max_products=40, losses=losses)
    for callbacks in ([spectrum, balance, magnitudes, jacobian], []):
        torch.manual_seed(3)
        module = make_two_player_gan(pl)()
        fit(module, callbacks, image_loader(), pl, max_steps=8)
        weights.append(torch.cat([p.flatten() for p in module.parameters()]))
    assert torch.equal(*weights)
    assert spectrum.series["iteration"] == [0, 2, 4]
    assert balance.series["iteration"] == [1, 2, 4]
    assert jacobian.series["iteration"] == [1, 4]
    assert {p: entry["iteration"] for p, entry in magnitudes.series["players"].items()} == {
        "generator": [1, 2, 4],
        "discriminator": [1, 2, 4],
    }


def test_states_have_the_names_of_earlier_checkpoints():
    names = [type(m).__name__ for m in all_monitors()]
    names[1] = "SpectrumLogger{'target': 'discriminator'}"
    assert [m.state_key for m in all_monitors()] == names
    features = ModuleFeatures(torch.nn.Identity())
    assert ScoreLogger(features=features).state_key == "ScoreLogger{'label': 'module', 'part': 'train'}"
    for kind in (BalanceLogger, JacobianSpectrumLogger):
        assert kind(targets=["generator", "critic"]).state_key != kind().state_key


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        *((type(m), {"every_n_steps": 0}, "`every_n_steps` must be at least 1, got 0") for m in all_monitors()),
        (SpectrumLogger, {"k": 0}, "`k` must be at least 1, got 0"),
        (SampleGridLogger, {"count": 0}, "`count` must be at least 1, got 0"),
        (ModeLogger, {"count": 0}, "`count` must be at least 1, got 0"),
        (CollapseMonitor, {"patience": 0}, "`patience` must be at least 1, got 0"),
        (CollapseMonitor, {"loss_bound": -1.0}, "`loss_bound` must not be negative, got -1.0"),
        (CollapseMonitor, {"deviation_bound": -1.0}, "`deviation_bound` must not be negative, got -1.0"),
        (CollapseMonitor, {"count": 1}, "`count` must be at least 2, got 1"),
        (CollapseMonitor, {"condition_every_n_steps": 0}, "`condition_every_n_steps` must be at least 1, got 0"),
        (CollapseMonitor, {"condition_bound": 0.5}, "`condition_bound` must be at least 1, as every one is, got 0.5"),
        (JacobianSpectrumLogger, {"count": 0}, "`count` must be at least 1, got 0"),
        (JacobianSpectrumLogger, {"samples": 0}, "`samples` must be at least 1, got 0"),
        (JacobianSpectrumLogger, {"tolerance": 0.0}, "`tolerance` must be positive, got 0.0"),
        (JacobianSpectrumLogger, {"max_products": 30}, "`max_products` must be at least 40 for 6 eigenvalues, got 30"),
        (ScoreLogger, {"every_n_steps": 0}, "`every_n_steps` must be at least 1, got 0"),
        (ScoreLogger, {"count": 0}, "`count` must be at least 1, got 0"),
        (ScoreLogger, {"batch_size": 0}, "`batch_size` must be at least 1, got 0"),
        (ScoreLogger, {"real_count": 0}, "`real_count` must be at least 1, got 0"),
        (ScoreLogger, {"scores": ["is"]}, "`scores` must be some of fid, score, kid, precision_recall, got ['is']"),
    ],
)
def test_arguments_out_of_range(kind, arguments, message):
    with pytest.raises(ValueError, match=f"^argument {re.escape(message)}$"):
        kind(**arguments)


@pytest.mark.parametrize("kind", [SpectrumLogger, CollapseMonitor, BalanceLogger, JacobianSpectrumLogger])
def test_targets_must_be_there(fit, kind):
    wrong = {"target": "critic"} if kind in (SpectrumLogger, CollapseMonitor) else {"targets": ["generator", "critic"]}
    with pytest.raises(ValueError, match=r"^argument `target` must name a submodule of CarelessGAN"):
        fit(gan_of_points(), [kind(**wrong)], points())


@pytest.mark.parametrize("monitor", [SampleGridLogger(), ModeLogger(), ScoreLogger()], ids=lambda m: type(m).__name__)
def test_some_need_a_module_that_samples(fit, monitor):
    alternative = "the argument `sample`, or " if isinstance(monitor, ScoreLogger) else ""
    module = "a module with `fixed_latents(count)` and `sample_images(latents)`, got Classifier"
    with pytest.raises(TypeError, match=f"^{re.escape(f'{type(monitor).__name__} needs {alternative}{module}')}$"):
        fit(make_classifier(lightning.pytorch)(), [monitor], image_loader())
