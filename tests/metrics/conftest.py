"""Small networks and images to score with and on."""

import numpy as np
import pytest
import torch
from helpers.distributed_scores import TwoHeads
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from pcgan_lightning.data import RealImages
from pcgan_lightning.data.real_images import digest_pixels
from pcgan_lightning.metrics import ModuleFeatures


@pytest.fixture
def features():
    return ModuleFeatures(TwoHeads().requires_grad_(False))


@pytest.fixture
def make_images():
    """Random smooth images: uint8 [count, 3, size, size]; `shift` moves their colours."""

    def make(count, seed=0, size=8, shift=0):
        rng = np.random.default_rng(seed)
        coarse = rng.integers(0, 200, (count, 3, 2, 2)) + shift
        return torch.from_numpy(np.kron(coarse, np.ones((1, 1, size // 2, size // 2))).astype(np.uint8))

    return make


@pytest.fixture
def as_real():
    """Real images that lie in memory."""
    return lambda images: RealImages(
        "test images", len(images), tuple(images.shape[1:]), digest_pixels(images), lambda: images
    )


@pytest.fixture
def save_folder(tmp_path):
    """Images written as PNG files of one folder."""

    def save(images, name):
        folder = tmp_path / name
        folder.mkdir()
        for number, pixels in enumerate(images):
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:05d}.png")
        return folder

    return save


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """A file like that of torch-fidelity's Inception weights, with random numbers in it."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    torch.manual_seed(0)
    with pytest.MonkeyPatch.context() as monkeypatch:
        home = "torch_fidelity.feature_extractor_inceptionv3.load_state_dict_from_url"
        monkeypatch.setattr(home, lambda *args, **kwargs: {})
        monkeypatch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save(FeatureExtractorInceptionV3("any", ["2048"]).state_dict(), path)
    return path
