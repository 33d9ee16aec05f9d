"""Statistics of real images: right, computed once, and never stale."""

import numpy as np
import pytest
import torch

from pcgan_lightning.data import ImageDataModule, image_data_module
from pcgan_lightning.metrics import ModuleFeatures, reference_statistics
from pcgan_lightning.metrics.reference import default_cache, statistics


def test_mean_and_covariance_are_numpys(features, make_images, as_real, tmp_path):
    images = make_images(50)
    reference = reference_statistics(as_real(images), features, tmp_path, batch_size=7)
    expected = features(images)[0].double().numpy()
    np.testing.assert_allclose(reference.mean, expected.mean(0), rtol=1e-6)  # batches of another size: float32 rounding
    np.testing.assert_allclose(reference.covariance, np.cov(expected, rowvar=False), rtol=1e-5, atol=1e-7)
    assert reference.mean.dtype == reference.covariance.dtype == torch.float64
    assert reference.count == 50
    torch.testing.assert_close(reference.features, features(images)[0])


def test_kept_features_are_drawn_at_random(monkeypatch):
    """Of images sorted by class, all classes are kept, and always the same images."""
    monkeypatch.setattr("pcgan_lightning.metrics.reference.KEPT_FEATURES", 40)
    features = torch.arange(100.0)[:, None]
    kept = statistics(features).features
    assert len(kept) == len(kept.unique()) == 40
    assert torch.equal(kept, statistics(features).features)
    quarters = torch.bincount((kept[:, 0] // 25).long())
    assert quarters.min() >= 4  # 10 on average
    assert torch.equal(statistics(features[:40]).features, features[:40])


def change_a_pixel(features, images):
    images[3, 0, 0, 0] += 1
    return images


CHANGES = {
    "network": lambda features, images: features.module.backbone.__setitem__(1, torch.nn.ReLU()) or images,
    "pixel": change_a_pixel,
    "count": lambda features, images: images[:-1],
    "order": lambda features, images: images.flip(0),
    "shape": lambda features, images: images.reshape(20, 3, 4, 16),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_computed_once_and_anew_when_anything_changes(features, make_images, as_real, tmp_path, change):
    first, again = (reference_statistics(as_real(make_images(20)), features, tmp_path) for _ in range(2))
    seen = features.module.seen
    assert seen == 20
    for name in ("mean", "covariance", "features", "count"):
        assert torch.equal(getattr(first, name), getattr(again, name))
    images = change(features, make_images(20))
    found = reference_statistics(as_real(images), features, tmp_path)
    assert features.module.seen == seen + len(images)
    torch.testing.assert_close(found.mean, features(images)[0].double().mean(0), rtol=1e-6, atol=1e-6)


def test_damaged_entry_is_replaced(features, make_images, as_real, tmp_path):
    first = reference_statistics(as_real(make_images(20)), features, tmp_path)
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:200])
    again = reference_statistics(as_real(make_images(20)), features, tmp_path)
    assert torch.equal(first.covariance, again.covariance)
    assert [entry] == list(tmp_path.iterdir())  # no draft is left


def test_entries_are_as_readable_as_other_files(features, make_images, as_real, tmp_path):
    """A cache may be shared by users; one that cannot be written to is found out before anything is computed."""
    reference_statistics(as_real(make_images(20)), features, tmp_path / "cache")
    (tmp_path / "file").touch()
    (entry,) = (tmp_path / "cache").iterdir()
    assert entry.stat().st_mode == (tmp_path / "file").stat().st_mode
    with pytest.raises(OSError, match=r"argument `cache` must be a folder that can be written to, got .*file"):
        reference_statistics(as_real(make_images(20)), features, tmp_path / "file")
    assert features.module.seen == 20


def test_default_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("PCGAN_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_cache() == tmp_path / "pcgan_lightning"
    monkeypatch.setenv("PCGAN_CACHE", str(tmp_path / "mine"))
    assert default_cache() == tmp_path / "mine"


def test_images_of_a_data_set(save_folder, make_images, features, tmp_path):
    """The digest follows files, count, size and channels; nothing is decoded to know it."""
    images = make_images(6, size=16)
    folder = save_folder(images, "folder")

    def real(count=None, **settings):
        return ImageDataModule(source=str(folder), **({"image_size": 16} | settings)).real_images(count=count)

    assert torch.equal(real().load(), images)
    assert (real().count, real().image_shape) == (6, (3, 16, 16))
    assert "folder" in real().description
    assert str(folder) not in real().description
    assert real().digest == real().digest
    digests = {real().digest, real(count=5).digest, real(image_size=8).digest, real(max_images=4).digest}
    next(folder.glob("*3.png")).write_bytes(next(folder.glob("*4.png")).read_bytes())
    assert len({*digests, real().digest}) == 5


def digits(**settings):
    return ImageDataModule(image_size=8, **settings)


def test_images_of_a_set_up_data_module_and_of_a_stream_are_the_same():
    used = digits(validation_split="test")
    used.setup("fit")
    for part, count in (("train", 1500), ("validation", 297)):
        a, b = digits(validation_split="test").real_images(part), used.real_images(part)
        assert a.digest == b.digest
        assert torch.equal(a.load(), b.load())
        assert len(a.load()) == a.count == count
    ten = used.real_images("train", 10).load()
    assert len(ten) == 10
    assert torch.equal(ten, digits(streaming=True, validation_split="test").real_images(count=10).load())


def test_no_more_images_than_fit_in_memory(monkeypatch):
    """1,797 of 8x8 bytes take 115 kB."""
    monkeypatch.setattr(image_data_module, "STREAMED_REAL_IMAGES", 40)
    assert digits(memory_limit_gb=1e-4).real_images().count == 40
    assert digits(memory_limit_gb=1e-4).real_images(count=60).count == 60
    assert digits(memory_limit_gb=2e-4).real_images().count == 1797


def test_jpeg_is_told(cifar10):
    real = ImageDataModule(source=str(cifar10), validation_split="test").real_images("validation", 10)
    assert "stored as JPEG" in real.description
    assert "JPEG" not in ImageDataModule().real_images().description


def test_no_validation_images():
    with pytest.raises(ValueError, match="argument `validation_split` must name a split"):
        ImageDataModule().real_images("validation")


def test_module_features_are_loaded_in_evaluation_mode(make_images, as_real, tmp_path):
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(192)).train()
    reference_statistics(as_real(make_images(20)), ModuleFeatures(module), tmp_path)
    assert module[1].num_batches_tracked == 0
