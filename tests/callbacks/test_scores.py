"""ScoreLogger: what it logs, that it disturbs nothing, resumes, and works on modules of others."""

import csv
import json
import re

import lightning.pytorch
import pytest
import torch
from distributed_scores import TwoHeads
from foreign_modules import BOTH_NAMES, image_loader, make_two_player_gan
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader, TensorDataset

from pcgan_lightning.callbacks import GANProgressBar, ScoreLogger
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


def fit(tmp_path, module, callbacks, pl=lightning.pytorch, ckpt_path=None, **kwargs):
    defaults = {
        "accelerator": "cpu",
        "max_steps": 7,
        "default_root_dir": tmp_path,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    data = ImageDataModule(batch_size=8, max_images=64, seed=0)
    loader = {"datamodule": data} if isinstance(module, GAN) else {"train_dataloaders": image_loader()}
    trainer = pl.Trainer(**defaults | kwargs, callbacks=callbacks)
    torch.manual_seed(2)
    trainer.fit(module, ckpt_path=ckpt_path, **loader)
    return trainer


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_scores_are_those_of_the_generator(tmp_path, ema_decay):
    """At the interval and after the last iteration; of the averaged weights where the run has them."""
    gan, callback = tiny_gan(ema_decay), scores_logger(tmp_path)
    fit(tmp_path, gan, [callback], logger=CSVLogger(tmp_path, name="", version=""))
    assert callback.series["iteration"] == [3, 6, 7]
    reference = reference_statistics(ImageDataModule(max_images=64).real_images(), features(), tmp_path / "own")
    metric = GenerativeScores(features(), reference, scores=["fid", "score", "precision_recall"])
    images = to_uint8(gan.sample_images(gan.fixed_latents(40), averaged=ema_decay > 0))
    expected = score_generator(metric, lambda numbers: images[numbers.start : numbers.stop], 40)
    # Batches of another size: float32 rounding, which can move a pixel by one level.
    assert callback.series["scores"][-1] == {name: pytest.approx(v, rel=1e-3) for name, v in expected.items()}
    with (tmp_path / "metrics.csv").open() as file:
        rows = [
            (int(float(r["step"])), float(r["metric/module_fid"]))
            for r in csv.DictReader(file)
            if r["metric/module_fid"]
        ]
    assert rows == list(zip([3, 6, 7], [s["module_fid"] for s in callback.series["scores"]], strict=True))


def test_protocol_goes_with_every_score(tmp_path, caplog):
    with caplog.at_level("INFO", logger="lightning.pytorch"):
        callback = scores_logger(tmp_path)
        fit(tmp_path, tiny_gan(), [callback])
    lines = [m for m in caplog.messages if m.startswith("iteration ")]
    assert len(lines) == 3
    for line in lines:
        assert "40 generated images against 64 of digits (split train, 32x32); features of TwoHeads" in line
    saved = json.loads((tmp_path / "evaluations" / "iteration_0000007_module_train.json").read_text())
    assert saved["scores"] == callback.series["scores"][-1]
    assert saved["iteration"] == 7
    assert saved["protocol"].startswith("Last weights, latents of seed 0: 40 generated images")


def test_training_is_not_disturbed(tmp_path):
    watched, alone = tiny_gan(0.5), tiny_gan(0.5)
    fit(tmp_path, watched, [scores_logger(tmp_path, every_n_steps=1)])
    fit(tmp_path, alone, [])
    for name, value in alone.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name]), name


def test_resumed_scores_are_whole(tmp_path):
    uninterrupted = scores_logger(tmp_path)
    fit(tmp_path, tiny_gan(), [uninterrupted], max_steps=9)
    first = fit(tmp_path, tiny_gan(), [scores_logger(tmp_path)], max_steps=6)
    first.save_checkpoint(tmp_path / "six.ckpt")
    resumed = scores_logger(tmp_path)
    fit(tmp_path, tiny_gan(), [resumed], max_steps=9, ckpt_path=tmp_path / "six.ckpt")
    assert resumed.series == uninterrupted.series
    assert resumed.series["iteration"] == [3, 6, 9]
    assert len({s["module_fid"] for s in resumed.series["scores"]}) == 3


def test_a_checkpoint_can_follow_a_score(tmp_path):
    best = ModelCheckpoint(
        tmp_path, monitor="metric/module_fid", every_n_train_steps=3, filename="{step}", save_top_k=1
    )
    callback = scores_logger(tmp_path)
    fit(tmp_path, tiny_gan(), [callback, best], max_steps=9, enable_checkpointing=True)
    found = [s["module_fid"] for s in callback.series["scores"]]
    assert best.best_model_score.item() == pytest.approx(min(found))
    assert best.best_model_path.endswith(f"step={3 * (found.index(min(found)) + 1)}.ckpt")


def test_beside_a_progress_bar(tmp_path):
    fit(tmp_path, tiny_gan(), [scores_logger(tmp_path), GANProgressBar()], enable_progress_bar=True)


@BOTH_NAMES
def test_modules_of_others(pl, tmp_path):
    """With a function that samples; the real images are the loader's, whose order and randomness stay."""

    def sample(module, numbers):
        latents = torch.stack([torch.randn(6, generator=torch.Generator().manual_seed(n)) for n in numbers])
        return module.generator(latents)

    weights, random_states = [], []
    for callbacks in ([scores_logger(tmp_path, sample=sample, count=20)], []):
        torch.manual_seed(3)
        module = make_two_player_gan(pl)()
        fit(tmp_path, module, callbacks, pl)
        weights.append(module.generator[0].weight)
        random_states.append(torch.get_rng_state())
        if callbacks:
            assert set(callbacks[0].series["scores"][-1]) == NAMES
            # Two batches of the loader make 4 iterations; Lightning's steps count both optimizers.
            assert callbacks[0].series["iteration"] == [3, 4]
    assert torch.equal(*weights)
    assert torch.equal(*random_states)


def test_real_images_of_a_loader(tmp_path):
    reference = scores_logger(tmp_path, sample=lambda module, numbers: torch.zeros(len(numbers), 1, 8, 8), count=20)
    fit(tmp_path, make_two_player_gan(lightning.pytorch)(), [reference])
    expected = features()(to_uint8(torch.cat([images for images, _ in image_loader()])))[0]
    torch.testing.assert_close(reference.metric.reference.mean, expected.double().mean(0), rtol=1e-5, atol=1e-6)


def test_sampling_of_others_is_kept_apart(tmp_path):
    """Their function may draw numbers, and runs in evaluation mode without gradients."""
    modes = []

    def sample(module, numbers):
        modes.append((module.generator.training, torch.is_grad_enabled()))
        return module.generator(torch.randn(len(numbers), 6))

    weights = []
    for callbacks in ([scores_logger(tmp_path, sample=sample, count=20, every_n_steps=1)], []):
        torch.manual_seed(3)
        module = make_two_player_gan(lightning.pytorch)()
        fit(tmp_path, module, callbacks)
        weights.append(module.generator[0].weight)
        assert module.generator.training
    assert torch.equal(*weights)
    assert set(modes) == {(False, False)}


def test_real_images_of_a_loader_of_bytes(tmp_path):
    """uint8 images are taken as they are."""
    images = torch.randint(256, (40, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

    class Bytes(make_two_player_gan(lightning.pytorch)):
        def training_step(self, batch, batch_idx):
            super().training_step((batch[0].float() / 127.5 - 1, *batch[1:]), batch_idx)

    loader = DataLoader(TensorDataset(images, torch.zeros(40)), batch_size=8)
    reference = scores_logger(tmp_path, sample=lambda module, numbers: torch.zeros(len(numbers), 1, 8, 8), count=20)
    options = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu", max_steps=4, default_root_dir=tmp_path, callbacks=[reference], **options
    )
    trainer.fit(Bytes(), train_dataloaders=loader)
    expected = features()(images)[0].double().mean(0)
    torch.testing.assert_close(reference.metric.reference.mean, expected, rtol=1e-5, atol=1e-6)


def test_two_of_them(tmp_path):
    """Against training and against validation images: neither names nor files collide."""
    callbacks = [scores_logger(tmp_path, every_n_steps=7, part=part) for part in ("train", "validation")]
    data = ImageDataModule(batch_size=8, max_images=64, seed=0, validation_split="test")
    options = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = lightning.pytorch.Trainer(
        accelerator="cpu", max_steps=7, default_root_dir=tmp_path, callbacks=callbacks, logger=False, **options
    )
    trainer.fit(tiny_gan(), datamodule=data)
    assert set(callbacks[1].series["scores"][-1]) == {f"validation_{name}" for name in NAMES}
    assert trainer.callback_metrics["metric/module_fid"] != trainer.callback_metrics["metric/validation_module_fid"]
    files = {path.name for path in (tmp_path / "evaluations").iterdir()}
    assert files == {f"iteration_0000007_module_{part}.json" for part in ("train", "validation")}


def test_a_dry_run_checks_and_scores_nothing(tmp_path):
    callback = scores_logger(tmp_path, every_n_steps=1)
    fit(tmp_path, tiny_gan(), [callback], fast_dev_run=True)
    assert callback.series["iteration"] == []
    assert not (tmp_path / "cache").exists()
    with pytest.raises(ValueError, match="argument `count` must give at least 6 generated images"):
        fit(tmp_path, tiny_gan(), [scores_logger(tmp_path, count=5)], fast_dev_run=True)


def test_nothing_is_loaded_before_the_fit(tmp_path):
    """A callback of a configuration that only tests or validates must not download."""
    ScoreLogger(features=ClassifierFeatures(tmp_path / "nowhere.safetensors"))
    with pytest.raises(FileNotFoundError, match="argument `weights` must be a file of classifier weights"):
        fit(tmp_path, tiny_gan(), [scores_logger(tmp_path, features=ClassifierFeatures(tmp_path / "nowhere"))])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "argument `count` must be at least 1, got 0"),
        ({"every_n_steps": 0}, "argument `every_n_steps` must be at least 1, got 0"),
        ({"batch_size": 0}, "argument `batch_size` must be at least 1, got 0"),
        ({"real_count": 0}, "argument `real_count` must be at least 1, got 0"),
        ({"scores": ["is"]}, "argument `scores` must be some of"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        scores_logger(tmp_path, **arguments)


def test_mistakes_before_anything_is_trained(tmp_path):
    gan = tiny_gan()
    before = gan.generator.linear.weight.clone() if hasattr(gan.generator, "linear") else None
    with pytest.raises(ValueError, match="argument `count` must give at least 6 generated images"):
        fit(tmp_path, gan, [scores_logger(tmp_path, count=5)])
    with pytest.raises(ValueError, match="argument `validation_split` must name a split"):
        fit(tmp_path, gan, [scores_logger(tmp_path, part="validation")])
    with pytest.raises(TypeError, match="ScoreLogger needs the argument `sample`"):
        fit(tmp_path, make_two_player_gan(lightning.pytorch)(), [scores_logger(tmp_path)])
    assert before is None or torch.equal(before, gan.generator.linear.weight)
