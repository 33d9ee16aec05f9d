"""Real images and points: LightningDataModules, mostly over the Hugging Face `datasets` library; their loaders."""

from pcgan_lightning.data.cache import default_cache
from pcgan_lightning.data.image_data_module import ImageDataModule
from pcgan_lightning.data.labelled import LabelledImageDataModule
from pcgan_lightning.data.loaders import MemoryLoader, SequentialLoader
from pcgan_lightning.data.mixture import MixtureLoader, MixtureOfGaussians, ring_of_modes
from pcgan_lightning.data.pictures import draw_samples, image_grid, to_pillow, to_uint8
from pcgan_lightning.data.real_images import RealImages, digest_pixels
from pcgan_lightning.data.stacked_digits import StackedDigits, StackedDigitsLoader
from pcgan_lightning.data.streaming import StreamingLoader

__all__ = [
    "ImageDataModule",
    "LabelledImageDataModule",
    "MemoryLoader",
    "MixtureLoader",
    "MixtureOfGaussians",
    "RealImages",
    "SequentialLoader",
    "StackedDigits",
    "StackedDigitsLoader",
    "StreamingLoader",
    "default_cache",
    "digest_pixels",
    "draw_samples",
    "image_grid",
    "ring_of_modes",
    "to_pillow",
    "to_uint8",
]
