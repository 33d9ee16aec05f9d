"""ModeCoverageLogger and LearningSpeedLogger: right numbers, disturbing nothing, surviving a checkpoint."""

import csv

import lightning.pytorch as pl
import pytest
import torch
from helpers import short_fits
from lightning.pytorch.demos.boring_classes import BoringModel
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from pcgan_lightning.callbacks import FixedPreconditioning, LearningSpeedLogger, ModeCoverageLogger
from pcgan_lightning.data import StackedDigits
from pcgan_lightning.losses import GradientPenalty
from pcgan_lightning.metrics import DigitClassifier, ModeCoverage
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator
from pcgan_lightning.spectra import precondition

FEW = {"count": 1000, "batch_size": 250}


def tiny_gan(channels=3, **kwargs):
    torch.manual_seed(1)
    generator = CNNGenerator(8, channels, latent_dim=4, width=2, initialization="torch")
    return GAN(generator, CNNDiscriminator(8, channels, width=2, initialization="torch"), **kwargs)


def fit(tmp_path, module, callbacks, max_steps=5, **options):
    data = StackedDigits(batch_size=8, seed=0)
    return short_fits.fit(tmp_path, module, max_steps, *callbacks, data=data, **options)


def test_modes_are_those_of_the_averaged_generator(tmp_path):
    modes = ModeCoverageLogger(2, **FEW)
    gan = tiny_gan(ema_decay=0.5)
    trainer = fit(tmp_path, gan, [modes], logger=CSVLogger(tmp_path, name="run", version=""), log_every_n_steps=1)
    metric = ModeCoverage((3, 8, 8))
    metric.update(gan.sample_images(gan.fixed_latents(1000)))
    expected = metric.compute()
    assert modes.series["iteration"] == [2, 4, 5]
    assert {name: values[-1] for name, values in modes.series.items()} == {"iteration": 5, **expected}
    # A checkpoint can monitor the latest measurement.
    assert trainer.callback_metrics["metric/kl_to_uniform"].item() == pytest.approx(modes.series["kl_to_uniform"][-1])
    with (tmp_path / "run" / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["metric/modes_covered"]]
    assert [int(float(row["step"])) for row in rows] == [2, 4, 5]
    assert [float(row["metric/sure_share"]) for row in rows] == modes.series["sure_share"]


@pytest.mark.parametrize(
    ("callback", "gan", "message"),
    [
        (
            lambda: ModeCoverageLogger(count=999),
            tiny_gan,
            "`count` must be at least the number of modes, 1,000, got 999",
        ),
        (
            lambda: ModeCoverageLogger(classifier=DigitClassifier(16)),
            tiny_gan,
            r"`classifier` must take images of shape",
        ),
        (
            lambda: ModeCoverageLogger(),
            lambda: tiny_gan(channels=1),
            r"`generator` must make images like the data's, \(3, 8, 8\), got \(1, 8, 8\)",
        ),
        (lambda: ModeCoverageLogger(batch_size=0), tiny_gan, "argument `batch_size` must be at least 1, got 0"),
        (lambda: LearningSpeedLogger(steps=0), tiny_gan, "argument `steps` must be at least 1, got 0"),
    ],
)
def test_mistakes_end_before_training(callback, gan, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, gan(), [callback()])


@pytest.mark.parametrize("kind", [ModeCoverageLogger, LearningSpeedLogger])
def test_only_modules_that_can(kind, tmp_path):
    with pytest.raises(TypeError, match=f"{kind.__name__} needs a module with"):
        pl.Trainer(logger=False, enable_checkpointing=False, callbacks=[kind()], accelerator="cpu").fit(BoringModel())


def test_measuring_changes_no_training(tmp_path):
    """Weights, buffers and both optimizers, with PC-layers whose power iteration follows copies too."""
    found = []
    for callbacks in ([], [ModeCoverageLogger(1, **FEW), LearningSpeedLogger(1, steps=3)]):
        gan = tiny_gan(penalty=GradientPenalty())
        trainer = fit(tmp_path, gan, [FixedPreconditioning(7), *callbacks])
        states = [optimizer.state_dict()["state"] for optimizer in trainer.optimizers]
        moments = [value for state in states for entry in state.values() for value in entry.values()]
        tensors = [t for t in [*gan.state_dict().values(), *moments, torch.get_rng_state()] if torch.is_tensor(t)]
        found.append(torch.cat([tensor.double().flatten() for tensor in tensors]))
    assert torch.equal(*found)


class Line(nn.Module):
    """A discriminator that is linear in the pixels, whose descent is known."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3 * 8 * 8))

    def forward(self, images):
        return images.flatten(1) @ self.weight


def test_extra_steps_descend_as_by_hand(tmp_path):
    """Hinge loss of a linear discriminator near zero: its gradient is constant, g = mean(fake) - mean(real)."""
    speed = LearningSpeedLogger(2, steps=4)
    torch.manual_seed(1)
    rate = 1e-3  # so low that no score reaches the hinge's corners
    generator = CNNGenerator(8, latent_dim=4, width=2)

    def sgd(parameters):
        return torch.optim.SGD(parameters, lr=rate)

    gan = GAN(generator, Line(), generator_optimizer=sgd, discriminator_optimizer=sgd)
    fit(tmp_path, gan, [speed], max_steps=2)
    data = StackedDigits(batch_size=8, seed=0)
    data.setup("fit")
    _, real = (batch for _, batch in zip(range(2), data.train_dataloader(), strict=False))
    fake = gan.sample_images(gan.fixed_latents(8))
    gradient = (fake.mean(0) - real.mean(0)).double().flatten()
    before = 2 + gan.discriminator.weight.detach().double() @ gradient
    assert speed.series["iteration"] == [2]
    assert speed.series["loss_before"] == [pytest.approx(before.item(), rel=1e-5)]
    assert speed.series["decrease"] == [pytest.approx(4 * rate * (gradient @ gradient).item(), rel=1e-3)]
    assert speed.series["loss_after"][0] == pytest.approx(speed.series["loss_before"][0] - speed.series["decrease"][0])


def test_extra_steps_go_on_from_the_optimizers_state(tmp_path):
    """The copy of Adam's moments makes the step that the optimizer itself would make."""
    speed = LearningSpeedLogger(3, steps=1)
    gan = tiny_gan()
    precondition(gan.discriminator, 5)
    trainer = fit(tmp_path, gan, [speed], max_steps=3)
    data = StackedDigits(batch_size=8, seed=0)
    data.setup("fit")
    *_, real = (batch for _, batch in zip(range(3), data.train_dataloader(), strict=False))
    fake = gan.sample_images(gan.fixed_latents(8))

    def loss():
        return gan.loss.discriminator(gan.discriminator(real), gan.discriminator(fake))

    gan.discriminator.requires_grad_(True)
    trainer.optimizers[1].zero_grad()
    before = loss()
    before.backward()
    trainer.optimizers[1].step()
    expected = [before.item(), loss().item()]
    assert [speed.series["loss_before"][0], speed.series["loss_after"][0]] == pytest.approx(expected, rel=1e-5)


def test_series_survive_a_checkpoint(tmp_path):
    def callbacks():
        return [ModeCoverageLogger(2, **FEW), LearningSpeedLogger(2, steps=2)]

    whole, first, second = callbacks(), callbacks(), callbacks()
    fit(tmp_path, tiny_gan(), whole, max_steps=6)
    fit(tmp_path, tiny_gan(), first, max_steps=4).save_checkpoint(tmp_path / "middle.ckpt")
    fit(tmp_path, tiny_gan(), second, max_steps=6, ckpt_path=tmp_path / "middle.ckpt")
    for one, other in zip(whole, second, strict=True):
        assert one.series == other.series
        assert len(one.series["iteration"]) == 3
