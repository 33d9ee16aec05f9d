"""ScoreLogger: what it logs, that it disturbs nothing, resumes, and works on modules of others."""

import json

import lightning.pytorch
import pytest
import torch
from helpers.distributed_scores import TwoHeads
from helpers.foreign_modules import BOTH_NAMES, image_loader, make_two_player_gan
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from pcgan_lightning.callbacks import ScoreLogger
from pcgan_lightning.data import ImageDataModule, to_uint8
from pcgan_lightning.metrics import (
    ClassifierFeatures,
    GenerativeScores,
    ModuleFeatures,
    reference_statistics,
    score_generator,
)
from pcgan_lightning.modules import GAN
from pcgan_lightning.networks import CNNDiscriminator, CNNGenerator

NAMES = {f"module_{name}" for name in ("fid", "score", "precision", "recall")}


def features():
    return ModuleFeatures(TwoHeads().requires_grad_(False))


def scores_logger(tmp_path, **kwargs):
    defaults = {"every_n_steps": 3, "count": 40, "batch_size": 16, "features": features(), "cache": tmp_path / "cache"}
    return ScoreLogger(**defaults | {"scores": ["fid", "score", "precision_recall"]} | kwargs)


def tiny_gan(ema_decay=0.0):
    torch.manual_seed(1)
    # Lively weights: the images must differ, and from one scoring to the next.
    generator = CNNGenerator(channels=1, latent_dim=4, width=2, initialization="xavier_uniform")
    return GAN(generator, CNNDiscriminator(channels=1, width=1), ema_decay=ema_decay)


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_scores_are_those_of_the_generator(tmp_path, fit, ema_decay):
    """At the interval and after the last iteration; of the averaged weights where the run has them."""
    gan, callback = tiny_gan(ema_decay), scores_logger(tmp_path)
    fit(gan, [callback])
    assert callback.series["iteration"] == [3, 6, 7]
    reference = reference_statistics(ImageDataModule(max_images=64).real_images(), features(), tmp_path / "own")
    metric = GenerativeScores(features(), reference, scores=["fid", "score", "precision_recall"])
    images = to_uint8(gan.sample_images(gan.fixed_latents(40), averaged=ema_decay > 0))
    expected = score_generator(metric, lambda numbers: images[numbers.start : numbers.stop], 40)
    # Batches of another size: float32 rounding, which can move a pixel by one level.
    assert callback.series["scores"][-1] == {name: pytest.approx(v, rel=1e-3) for name, v in expected.items()}


def test_protocol_goes_with_every_score(tmp_path, fit, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        callback = scores_logger(tmp_path)
        fit(tiny_gan(), [callback])
    lines = [m for m in caplog.messages if m.startswith("iteration ")]
    assert len(lines) == 3
    for line in lines:
        assert "40 generated images against 64 of digits (split train, 32x32); features of TwoHeads" in line
    saved = json.loads((tmp_path / "evaluations" / "iteration_0000007_module_train.json").read_text())
    assert saved["scores"] == callback.series["scores"][-1]
    assert saved["iteration"] == 7
    assert saved["protocol"].startswith("Last weights, latents of seed 0: 40 generated images")


def test_resumed_scores_are_whole(tmp_path, fit):
    uninterrupted = scores_logger(tmp_path)
    fit(tiny_gan(), [uninterrupted], max_steps=9)
    first = fit(tiny_gan(), [scores_logger(tmp_path)], max_steps=6)
    first.save_checkpoint(tmp_path / "six.ckpt")
    resumed = scores_logger(tmp_path)
    fit(tiny_gan(), [resumed], max_steps=9, ckpt_path=tmp_path / "six.ckpt")
    assert resumed.series == uninterrupted.series
    assert resumed.series["iteration"] == [3, 6, 9]
    assert len({s["module_fid"] for s in resumed.series["scores"]}) == 3


def test_a_checkpoint_can_follow_a_score(tmp_path, fit):
    best = ModelCheckpoint(
        tmp_path, monitor="metric/module_fid", every_n_train_steps=3, filename="{step}", save_top_k=1
    )
    callback = scores_logger(tmp_path)
    fit(tiny_gan(), [callback, best], max_steps=9, enable_checkpointing=True)
    found = [s["module_fid"] for s in callback.series["scores"]]
    assert best.best_model_score.item() == pytest.approx(min(found))
    assert best.best_model_path.endswith(f"step={3 * (found.index(min(found)) + 1)}.ckpt")


@BOTH_NAMES
def test_modules_of_others(pl, tmp_path, fit):
    """Their function may draw numbers; it runs without gradients and in evaluation mode, and the training stays."""
    modes = []

    def sample(module, numbers):
        modes.append((module.generator.training, torch.is_grad_enabled()))
        return module.generator(torch.randn(len(numbers), 6))

    results = []
    callback = scores_logger(tmp_path, sample=sample, count=20)
    for callbacks in ([callback], []):
        torch.manual_seed(3)
        module = make_two_player_gan(pl)()
        fit(module, callbacks, image_loader(), pl)
        results.append((module.generator[0].weight, torch.get_rng_state()))
        assert module.generator.training
    assert set(callback.series["scores"][-1]) == NAMES
    # Seven of Lightning's steps, which count both optimizers, make 4 iterations.
    assert callback.series["iteration"] == [3, 4]
    assert set(modes) == {(False, False)}
    for watched, alone in zip(*results, strict=True):
        assert torch.equal(watched, alone)


def test_real_images_of_a_loader(tmp_path, fit):
    reference = scores_logger(tmp_path, sample=lambda module, numbers: torch.zeros(len(numbers), 1, 8, 8), count=20)
    fit(make_two_player_gan(lightning.pytorch)(), [reference], image_loader())
    expected = features()(to_uint8(torch.cat([images for images, _ in image_loader()])))[0]
    torch.testing.assert_close(reference.metric.reference.mean, expected.double().mean(0), rtol=1e-5, atol=1e-6)


def test_real_images_of_a_loader_of_bytes(tmp_path, fit):
    """uint8 images are taken as they are."""
    images = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    class Bytes(make_two_player_gan(lightning.pytorch)):
        def training_step(self, batch, batch_idx):
            super().training_step((batch[0].float() / 127.5 - 1, *batch[1:]), batch_idx)

    loader = DataLoader(TensorDataset(images, torch.zeros(40)), batch_size=8)
    reference = scores_logger(tmp_path, sample=lambda module, numbers: torch.zeros(len(numbers), 1, 8, 8), count=20)
    fit(Bytes(), [reference], loader, max_steps=4)
    expected = features()(images)[0].double().mean(0)
    torch.testing.assert_close(reference.metric.reference.mean, expected, rtol=1e-5, atol=1e-6)


def test_two_of_them(tmp_path, fit):
    """Against training and against validation images: neither names nor files collide."""
    callbacks = [scores_logger(tmp_path, every_n_steps=7, part=part) for part in ("train", "validation")]
    data = ImageDataModule(batch_size=8, max_images=64, seed=0, validation_split="test")
    trainer = fit(tiny_gan(), callbacks, data)
    assert set(callbacks[1].series["scores"][-1]) == {f"validation_{name}" for name in NAMES}
    assert trainer.callback_metrics["metric/module_fid"] != trainer.callback_metrics["metric/validation_module_fid"]
    files = {path.name for path in (tmp_path / "evaluations").iterdir()}
    assert files == {f"iteration_0000007_module_{part}.json" for part in ("train", "validation")}


def test_a_dry_run_checks_and_scores_nothing(tmp_path, fit):
    callback = scores_logger(tmp_path, every_n_steps=1)
    fit(tiny_gan(), [callback], fast_dev_run=True)
    assert callback.series["iteration"] == []
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="argument `count` must give at least 6 generated images"):
        fit(tiny_gan(), [scores_logger(tmp_path, count=5)], fast_dev_run=True)


def test_nothing_is_loaded_before_the_fit(tmp_path, fit):
    """A callback of a configuration that only tests or validates must not download."""
    ScoreLogger(features=ClassifierFeatures(tmp_path / "nowhere.safetensors"))
    with pytest.raises(FileNotFoundError, match="argument `weights` must be a file of classifier weights"):
        fit(tiny_gan(), [scores_logger(tmp_path, features=ClassifierFeatures(tmp_path / "nowhere"))])


def test_mistakes_before_anything_is_trained(tmp_path, fit):
    with pytest.raises(ValueError, match="argument `count` must give at least 6 generated images"):
        fit(tiny_gan(), [scores_logger(tmp_path, count=5)])
    with pytest.raises(ValueError, match="argument `validation_split` must name a split"):
        fit(tiny_gan(), [scores_logger(tmp_path, part="validation")])
