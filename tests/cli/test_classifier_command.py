"""pcgan classifier: what it trains and exports."""

import datasets
import numpy as np
import pytest
import torch
from helpers import ROOT
from helpers.command import one_error, pcgan
from PIL import Image
from safetensors import safe_open

from pcgan_lightning.metrics import ClassifierFeatures

pytestmark = pytest.mark.slow


def squares(count, folder, name):
    """Images of two classes that a classifier tells apart at once: reddish and bluish."""
    rng = np.random.default_rng(count)
    labels = rng.integers(0, 2, count)
    pixels = rng.integers(0, 120, (count, 32, 32, 3)).astype(np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[:, :, 2 * label] += 120
    features = datasets.Features(img=datasets.Image(), label=datasets.ClassLabel(2))
    table = {"img": [Image.fromarray(p) for p in pixels], "label": labels.tolist()}
    datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{name}.parquet")


@pytest.fixture
def labelled(tmp_path):
    folder = tmp_path / "labelled"
    folder.mkdir()
    squares(200, folder, "train")
    squares(60, folder, "test")
    return folder


def test_classifier_is_trained_and_exported(labelled, monkeypatch, tmp_path, capsys):
    """The shipped config on other data; what it writes can be scored with."""
    path = tmp_path / "out" / "weights.safetensors"
    fit = (
        *("classifier", "fit", "--config", ROOT / "configs" / "classifier" / "cifar10.yaml", "--data.source", labelled),
        *("--data.batch_size=20", "--trainer.max_epochs=2", "--trainer.check_val_every_n_epoch=1"),
        *("--model.network.classes=2", "--model.network.width=2", "--trainer.accelerator=cpu"),
        *("--trainer.callbacks.init_args.path", path, "--trainer.enable_progress_bar=false"),
    )
    assert pcgan(monkeypatch, *fit) == 0
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert float(metadata["accuracy"]) > 0.95
    assert metadata["command"].startswith("pcgan classifier fit --config")
    features = ClassifierFeatures(path)
    features.load()
    assert "test accuracy" in features.description
    images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    images[0, 0], images[1, 2] = 180, 180
    assert features(images)[1].argmax(1).tolist() == [0, 1]


def test_classifier_mistakes(labelled, monkeypatch, capsys):
    config = ("--config", ROOT / "configs" / "classifier" / "cifar10.yaml", "--data.source", labelled)
    for arguments, message in (
        (["--data.label_column=kind"], "`label_column` must name a column of integers"),
        (["--data.channels=2"], "`channels` must be 1 or 3, got 2"),
        (["--model.label_smoothing=1"], "`label_smoothing` must be in [0, 1), got 1"),
        (["--model.network.width=0"], "`width` must be at least 1, got 0"),
    ):
        assert pcgan(monkeypatch, "classifier", "fit", *config, *arguments) == 1
        assert message in one_error(capsys)
