"""GAN with the optimizers and penalties of this package."""

import lightning.pytorch as pl
import pytest
import torch

from pcgan_lightning.callbacks import FixedPreconditioning
from pcgan_lightning.data import ImageDataModule
from pcgan_lightning.losses import GradientPenalty, WassersteinLoss
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import ResNetDiscriminator, ResNetGenerator
from pcgan_lightning.optim import NSGDA, AdaDir, AdaNSGDA, Grafted, LinearDecay

RULES = {
    "NSGDA": lambda p: NSGDA(p, lr=0.02, scope="layer"),
    "AdaNSGDA": lambda p: AdaNSGDA(p, lr=0.01, betas=(0.0, 0.9), scope="layer"),
    "AdaDir": lambda p: AdaDir(p, lr=0.001, betas=(0.5, 0.9), oracle="paper"),
    "Grafted": lambda p: Grafted(p, lambda q: torch.optim.Adam(q, lr=0.01), lambda q: torch.optim.SGD(q, lr=1.0)),
}


def make_gan(rule):
    torch.manual_seed(0)
    return GAN(
        ResNetGenerator(channels=1, latent_dim=4, width=2),
        ResNetDiscriminator(channels=1, width=2, pooling="mean"),
        WassersteinLoss(),
        discriminator_steps=2,
        penalty=GradientPenalty(3.0),
        generator_optimizer=RULES[rule],
        discriminator_optimizer=RULES[rule],
        discriminator_scheduler=lambda o: LinearDecay(o, total_iterations=20, start=0.0),
        ema_decay=0.5,
    )


def fit(tmp_path, gan, steps, ckpt_path=None, **kwargs):
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        default_root_dir=tmp_path,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[FixedPreconditioning(3)],
        **kwargs,
    )
    torch.manual_seed(1)
    data = ImageDataModule(batch_size=4, max_images=64, seed=0)
    trainer.fit(gan, datamodule=data, ckpt_path=ckpt_path)
    return trainer


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_resumed_run_is_bit_identical(tmp_path, rule):
    whole, first, second = make_gan(rule), make_gan(rule), make_gan(rule)
    fit(tmp_path, whole, 8)
    fit(tmp_path, first, 5).save_checkpoint(tmp_path / "five.ckpt")
    fit(tmp_path, second, 8, ckpt_path=tmp_path / "five.ckpt")
    for name, value in whole.state_dict().items():
        assert torch.isfinite(value).all(), name
        assert torch.equal(value, second.state_dict()[name]), name


def test_penalty_is_part_of_the_loss_and_logged(tmp_path, monkeypatch):
    gan, seen = make_gan("NSGDA"), []
    update = GAN.update
    monkeypatch.setattr(
        GAN, "update", lambda self, o, loss, **k: (seen.append(loss.item()), update(self, o, loss, **k))
    )
    penalties = []
    original = gan.penalty

    def recorded(*arguments):
        value = original(*arguments)
        penalties.append((value.item(), *arguments))
        return value

    gan.penalty = recorded
    trainer = fit(tmp_path, gan, 1)
    assert len(penalties) == 2
    assert trainer.callback_metrics["loss/penalty"].item() == pytest.approx(sum(p[0] for p in penalties) / 2, rel=1e-5)
    assert trainer.callback_metrics["loss/discriminator"].item() == pytest.approx(sum(seen[:2]) / 2, rel=1e-5)
    (_, _, real, fake, mixing), (_, _, _, _, other) = penalties
    assert real.shape == fake.shape == (4, 1, 32, 32)
    assert 0 <= mixing.min() < mixing.max() < 1
    assert not torch.equal(mixing, other)


def test_penalty_is_kept_in_checkpoints(tmp_path):
    fit(tmp_path, make_gan("NSGDA"), 1).save_checkpoint(tmp_path / "one.ckpt")
    loaded = GAN.load_from_checkpoint(tmp_path / "one.ckpt")
    assert isinstance(loaded.penalty, GradientPenalty)
    assert loaded.penalty.weight == 3.0
