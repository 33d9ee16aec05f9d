"""CollapseMonitor: each warning once an episode, at the right iteration, and none without a reason."""

import csv
import logging

import lightning.pytorch
import pytest
import torch
from helpers.foreign_modules import image_loader, make_two_player_gan
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from pcgan_lightning.callbacks import CollapseMonitor
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import modified_condition_number, precondition


class Scripted(LightningModule):
    """Losses, samples and weights as a script says, iteration by iteration; nothing is trained."""

    def __init__(self, losses=(), spreads=(), conditions=()):
        super().__init__()
        self.automatic_optimization = False
        self.losses, self.spreads, self.conditions = losses, spreads, conditions
        self.discriminator = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    @property
    def iteration(self):
        return self.trainer.fit_loop.total_batch_idx + 1

    def training_step(self, batch, batch_idx):
        if self.losses:
            self.log("loss/discriminator", self.losses[self.iteration - 1])
        if self.conditions:
            with torch.no_grad():
                for layer, value in zip(self.discriminator, self.conditions[self.iteration - 1], strict=True):
                    layer.weight.copy_(torch.diag(torch.tensor([value, 1.0])))

    def fixed_latents(self, count):
        return torch.arange(count) - (count - 1) / 2

    def sample_images(self, latents):
        # One pixel that varies and one that does not.
        spread = self.spreads[self.iteration - 1] if self.spreads else 1.0
        return torch.stack([spread * latents / latents.std(), torch.full_like(latents, 3.0)], dim=1)

    def configure_optimizers(self):
        return []


@pytest.fixture
def run(fit):
    """Run a script for so many iterations."""
    return lambda module, monitor, iterations, **options: fit(
        module,
        [monitor],
        torch.utils.data.DataLoader(range(64)),
        **{"max_steps": -1, "max_epochs": 1, "limit_train_batches": iterations} | options,
    )


@pytest.fixture
def warned(caplog):
    """Return what has been warned of so far, as (iteration, rest of the line)."""

    def messages():
        found = [r.getMessage() for r in caplog.records if r.name.startswith("pcgan_lightning")]
        assert all(m.startswith("iteration ") and "\n" not in m for m in found)
        pairs = [m.removeprefix("iteration ").split(": ", 1) for m in found]
        return [(int(iteration), rest) for iteration, rest in pairs]

    caplog.set_level(logging.WARNING)
    return messages


def test_loss_at_zero(run, warned):
    """Three in a row; once; again after it was elsewhere; the iterations in between do not count."""
    #         2     4     6     8       10    12    14     16      18    20    22
    seen = [0.5, -9e-4, 9e-4, 0.0, 0.0, 2e-3, 0.0, 1e-4, -0.002, 0.0, 0.0, 0.0]
    losses = [value for loss in seen for value in (7.0 * loss + 1, loss)]
    run(Scripted(losses=losses), CollapseMonitor(every_n_steps=2, patience=3), len(losses))
    assert [iteration for iteration, _ in warned()] == [8, 24]
    assert warned()[0][1].startswith("loss/discriminator has been at 0 (up to 0.001) for 3 measurements")


def test_another_loss_and_none(run, warned):
    run(Scripted(losses=[0.0] * 4), CollapseMonitor(1, patience=1, loss="d_loss"), 4)
    run(Scripted(), CollapseMonitor(1, patience=1), 4)
    assert warned() == []
    run(Scripted(losses=[0.5] * 4), CollapseMonitor(1, patience=1, loss_bound=0.5), 4)
    assert [iteration for iteration, _ in warned()] == [1]


def test_samples_without_variance(tmp_path, run, warned):
    """Half the pixels vary, so that the mean standard deviation is half the spread; it is logged as well."""
    spreads = [1.0, 0.018, 0.018, 0.018, 0.022, 0.0, 0.0, 1.0]
    logger = CSVLogger(tmp_path, name="", version="")
    run(Scripted(spreads=spreads), CollapseMonitor(1, patience=2), len(spreads), logger=logger)
    assert [iteration for iteration, _ in warned()] == [3, 7]
    assert "deviation is 0.009, below 0.01" in warned()[0][1]
    with (tmp_path / "metrics.csv").open() as file:
        logged = [float(row["collapse/sample_deviation"]) for row in csv.DictReader(file)]
    assert logged == pytest.approx([s / 2 for s in spreads], rel=1e-5)


def test_condition_numbers(run, warned):
    """Two layers, each with episodes of its own; a weight that is not finite has no condition."""
    values = [(99.0, 1.0), (101.0, 1.0), (150.0, 1e3), (torch.nan, 1e3), (1.0, 1e3), (1e4, 1.0)]
    monitor = CollapseMonitor(every_n_steps=100, condition_every_n_steps=1)
    run(Scripted(conditions=values), monitor, len(values))
    assert warned() == [
        (2, "modified condition numbers are past 100: 0 (101)"),
        (3, "modified condition numbers are past 100: 1 (1000)"),
        (6, "modified condition numbers are past 100: 0 (1e+04)"),
    ]


def test_conditions_are_those_after_the_polynomial(run, warned):
    """A polynomial of degree 9 brings this layer below a bound that its weight is past."""
    module = Scripted()
    for layer in module.discriminator:
        layer.weight.data = torch.diag(torch.tensor([20.0, 1.0]))
    precondition(module.discriminator, 9, layers="all")
    before, after = (modified_condition_number(module.discriminator, after_polynomial=a)["0"] for a in (False, True))
    bound = (before + after).item() / 2
    assert after < bound < before
    run(module, CollapseMonitor(condition_every_n_steps=1, condition_bound=bound), 2)
    assert warned() == []
    run(module, CollapseMonitor(condition_every_n_steps=1, condition_bound=1 + after.item() * 0.5), 2)
    assert [iteration for iteration, _ in warned()] == [1]


@pytest.mark.parametrize("stop", [2, 3, 5])
def test_a_resumed_run_warns_as_one_never_interrupted(tmp_path, run, warned, stop):
    """Before, at and after the warning of iteration 4."""
    make = lambda: CollapseMonitor(1, patience=3, condition_every_n_steps=1)  # noqa: E731
    script = Scripted(spreads=[1.0, *[0.0] * 5], conditions=[(1.0, 1.0), *[(200.0, 1.0)] * 5])
    run(script, make(), stop).save_checkpoint(tmp_path / "stopped.ckpt")
    first = warned()
    monitor, state = make(), torch.load(tmp_path / "stopped.ckpt", weights_only=True)["callbacks"]
    monitor.load_state_dict(state[monitor.state_key])
    run(Scripted(spreads=[0.0] * 6, conditions=[(200.0, 1.0)] * 6), monitor, 6 - stop)
    assert [i for i, _ in first] + [stop + i for i, _ in warned()[len(first) :]] == [2, 4]


def test_a_module_of_someone_else(fit, warned):
    """It logs another loss, and has no latents to sample from."""
    monitor = CollapseMonitor(1, patience=2, loss="d_loss", loss_bound=100.0, condition_every_n_steps=1)
    fit(make_two_player_gan(lightning.pytorch)(), [monitor], image_loader(), max_steps=-1, max_epochs=1)
    assert [iteration for iteration, _ in warned()] == [2]


def test_a_healthy_gan_is_not_warned_of(fit, warned):
    torch.manual_seed(1)
    gan = GAN(CNNGenerator(channels=1, latent_dim=4, width=2), CNNDiscriminator(channels=1, width=2))
    fit(gan, [CollapseMonitor(1, condition_every_n_steps=1)], max_steps=4)
    assert warned() == []


def test_the_generator_itself_is_sampled():
    """A slow average would begin with the images of initial weights, which hardly vary."""
    torch.manual_seed(1)
    gan = GAN(CNNGenerator(channels=1, latent_dim=4, width=2), CNNDiscriminator(channels=1, width=2), ema_decay=0.999)
    gan.configure_model()
    nn.init.zeros_(gan.averaged_generator.module.to_image.weight)
    assert CollapseMonitor().sample_deviation(gan) > 0
    expected = gan.sample_images(gan.fixed_latents(16), averaged=False).std(dim=0).mean().item()
    assert CollapseMonitor().sample_deviation(gan) == pytest.approx(expected, rel=1e-6)
