"""The classifier: its network, its augmentation, its images with their labels."""

from types import SimpleNamespace

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from pcgan_lightning.data import LabelledImageDataModule
from pcgan_lightning.modules import Classifier
from pcgan_lightning.modules.classifier import augment
from pcgan_lightning.networks import ImageClassifier


@pytest.mark.parametrize(("size", "channels", "classes", "width"), [(32, 3, 10, 16), (20, 1, 4, 2)])
def test_network(size, channels, classes, width):
    network = ImageClassifier(size, channels, classes, width)
    images = torch.randn(5, channels, size, size)
    features = network.features(images)
    assert features.shape == (5, 12 * width) == (5, network.feature_dim)
    assert torch.equal(network.linear(features), network(images))
    assert network(images).shape == (5, classes)
    twin = ImageClassifier(**network.init_args)
    twin.load_state_dict(network.state_dict())
    assert torch.equal(twin(images), network(images))
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [c.out_channels for c in convolutions] == [width * n for n in (1, 2, 2, 6, 6, 12, 12)]


def test_augmentation_shifts_and_mirrors():
    """Every result is one of the windows of the padded image, or its mirror image; channels stay together."""
    image = torch.arange(2 * 6 * 6, dtype=torch.float32).view(1, 2, 6, 6)
    padded = nn.functional.pad(image, [1] * 4, mode="reflect")[0]
    windows = [padded[:, y : y + 6, x : x + 6] for y in range(3) for x in range(3)]
    possible = windows + [w.flip(2) for w in windows]
    found = augment(image.expand(500, -1, -1, -1), shift=1)
    which = [[n for n, window in enumerate(possible) if torch.equal(window, f)] for f in found]
    assert all(len(matches) == 1 for matches in which)
    counts = np.bincount([n for (n,) in which], minlength=18)
    # 500 draws of 18 equally likely: 27.8 on average, standard deviation 5.1; five of them.
    assert counts.min() > 2
    assert counts.max() < 54
    unshifted = augment(image.expand(40, -1, -1, -1), shift=0)
    assert all(torch.equal(f, image[0]) or torch.equal(f, image[0].flip(2)) for f in unshifted)


def test_labels_belong_to_their_images(tmp_path):
    """Each image has one grey level, ten times its label; only training images are shuffled, anew each time."""
    for name, labels in (("train", [n % 10 for n in range(25)]), ("test", [n % 7 for n in range(9)])):
        images = [PIL.Image.new("RGB", (8, 8), (10 * label,) * 3) for label in labels]
        features = datasets.Features(picture=datasets.Image(), kind=datasets.ClassLabel(10))
        table = datasets.Dataset.from_dict({"picture": images, "kind": labels}, features=features)
        table.to_parquet(tmp_path / f"{name}.parquet")
    data = LabelledImageDataModule(str(tmp_path), label_column="kind", image_size=8, batch_size=4)
    data.setup("fit")
    epochs = []
    for loader in (data.train_dataloader(), data.train_dataloader(), data.val_dataloader()):
        batches = [data.on_after_batch_transfer(batch, 0) for batch in loader]
        for images, labels in batches:
            torch.testing.assert_close(images[:, 0, 0, 0], labels * 10 / 127.5 - 1)
            assert images.shape[1:] == (3, 8, 8)
        epochs.append(torch.cat([labels for _, labels in batches]).tolist())
    assert [len(epoch) for epoch in epochs] == [24, 24, 9]  # the last of 25 does not fill a batch
    assert epochs[0] != epochs[1] != sorted(epochs[1])
    assert epochs[2] == [n % 7 for n in range(9)]


def test_learning_rate_makes_one_cycle():
    classifier = Classifier(ImageClassifier(width=1), warmup=0.25)
    classifier._trainer = SimpleNamespace(estimated_stepping_batches=100)
    plan = classifier.configure_optimizers()
    optimizer, scheduler = plan["optimizer"], plan["lr_scheduler"]["scheduler"]
    rates = []
    for _ in range(99):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 24
    assert rates[0] < 0.01 > optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: Classifier(ImageClassifier(width=1), warmup=0.0), r"`warmup` must be in \(0, 1\), got 0.0"),
        (lambda: Classifier(ImageClassifier(width=1), label_smoothing=1.0), r"`label_smoothing` .* \[0, 1\), got 1.0"),
        (lambda: Classifier(ImageClassifier(width=1), shift=-1), "`shift` must not be negative, got -1"),
        (lambda: ImageClassifier(image_size=4), "`image_size` must be at least 8, got 4"),
        (lambda: ImageClassifier()(torch.zeros(1, 3, 16, 16)), r"`images` must have shape \[N, 3, 32, 32\]"),
    ],
)
def test_arguments_out_of_range(use, message):
    with pytest.raises(ValueError, match=f"argument {message}"):
        use()
