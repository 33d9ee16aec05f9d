"""What each of two processes does to count modes together; importable, since they are started anew."""

from pathlib import Path

import torch
from torch import nn

from pcgan_lightning.metrics import ModeCoverage, score_generator


class Rows(nn.Module):
    """Of three classes: the brightest of three rows."""

    image_shape = (1, 3, 2)

    def forward(self, images):
        return images.mean(dim=(1, 3))


def stripes_of(numbers):
    """Each number's own image, some of them dim."""
    sources = (torch.Generator().manual_seed(number) for number in numbers)
    return torch.stack([5 * torch.randn(2, 3, 1, generator=source).expand(-1, -1, 2) for source in sources])


def one_of_two(rank, count, folder):
    """Count the modes of `count` images together with another process and leave the result in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    found = score_generator(ModeCoverage((2, 3, 2), Rows()), stripes_of, count, 8, rank, 2)
    torch.save(found, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()
