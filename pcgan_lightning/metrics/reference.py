"""Statistics of the real images, computed once and kept on disk."""

import hashlib
import logging
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional, Union

import torch
from rich.progress import track
from safetensors.torch import load, save
from torch import Tensor

from pcgan_lightning.data import RealImages, default_cache
from pcgan_lightning.metrics.features import Features
from pcgan_lightning.runs import write_whole

log = logging.getLogger("lightning.pytorch")
CHECKSUM_BYTES = 32
# KID draws subsets of them, precision and recall measure distances among them: more would only cost.
KEPT_FEATURES = 10_000


@dataclass(frozen=True)
class Reference:
    """Statistics of real images.

    Attributes:
        mean: of their features, float64 ``[d]``.
        covariance: of their features, unbiased, float64 ``[d, d]``.
        features: of 10,000 of them, drawn with a fixed seed where there are more, float32 ``[min(count, 10000), d]``.
        count: int64 scalar, the number of images.
    """

    mean: Tensor
    covariance: Tensor
    features: Tensor
    count: Tensor


def reference_statistics(
    real: RealImages,
    features: Features,
    cache: Optional[Path] = None,
    batch_size: int = 100,
    device: Union[str, torch.device] = "cpu",
    progress: bool = False,
) -> Reference:
    """Return the statistics of real images, from the cache where it has them.

    Args:
        real: the images. They are decoded only if the cache has no statistics of them.
        features: what to see in them.
        cache: folder; entries are named by a digest of the images and of the features' weights. None:
            :func:`default_cache`. One that is damaged, or of other images, is told of and replaced.
        batch_size: images seen at once.
        device: where the features are computed.
        progress: show a bar.

    Raises:
        OSError: before anything is computed, for a cache that cannot be written to.
    """
    features.load()
    key = hashlib.blake2b(f"3 {real.digest} {features.fingerprint()}".encode(), digest_size=16).hexdigest()
    path = (cache or default_cache()) / f"{key}.statistics"
    known = _read(path, key)
    if known is not None:
        return known
    _require_writable(path.parent)
    features.to(device)
    batches = real.load().split(batch_size)
    batches = track(batches, "features of real images", disable=not progress)
    reference = statistics(torch.cat([features(batch.to(device))[0].cpu() for batch in batches]))
    try:
        _write(reference, path, key)
    except OSError as error:  # a full disk, or a folder in its place
        log.warning(f"statistics of real images can't be kept in {path}: {error}")
    return reference


def statistics(features: Tensor) -> Reference:
    """Return the statistics of features ``[N, d]``, N > 1."""
    wide, kept = features.double(), features
    if len(features) > KEPT_FEATURES:  # at random: the first ones may all be of one class
        kept = features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))[:KEPT_FEATURES]]
    return Reference(wide.mean(0), torch.cov(wide.T), kept.clone(), torch.tensor(len(features)))


def _require_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"argument `cache` must be a folder that can be written to, got {folder} ({error})") from error


def _checksum(key: str, content: bytes) -> bytes:
    # Of the key as well: a whole file of other images is no less wrong.
    return hashlib.blake2b(key.encode() + content, digest_size=CHECKSUM_BYTES).digest()


def _read(path: Path, key: str) -> Optional[Reference]:
    """Return the statistics in a file, None where it is missing or its content is not what was written."""
    try:
        file = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning(f"cached statistics can't be read and are computed again: {error}")
        return None
    checksum, content = file[:CHECKSUM_BYTES], file[CHECKSUM_BYTES:]
    if checksum != _checksum(key, content):
        log.warning(f"cached statistics are damaged and are computed again: {path}")
        return None
    return Reference(**load(content))


def _write(reference: Reference, path: Path, key: str) -> None:
    """Write the checksum and then the statistics in safetensors' format."""
    content = save(asdict(reference))
    write_whole(path, _checksum(key, content) + content)
