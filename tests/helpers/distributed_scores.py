"""What each of several processes does to score together; importable, since they are started anew."""

from pathlib import Path

import torch
from torch import nn

from pcgan_lightning.metrics import GenerativeScores, ModuleFeatures, score_generator

SMALL = {"kid_subset_size": 20, "kid_subsets": 10}


class TwoHeads(nn.Module):
    """5 features and 4 logits of an image in [-1, 1]; counts the images it has seen."""

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = nn.Sequential(nn.Conv2d(3, 5, 4, stride=4), nn.GELU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(5, 4)
        for parameter in self.parameters():
            parameter.data.mul_(4)  # so that images differ
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        features = self.backbone(images)
        return features, self.head(features)


def images_of(numbers):
    """Each number's own image."""
    sources = (torch.Generator().manual_seed(number) for number in numbers)
    coarse = torch.stack([torch.randint(256, (3, 2, 2), generator=source) for source in sources])
    return coarse.to(torch.uint8).repeat_interleave(4, 2).repeat_interleave(4, 3)


def one_of_two(rank, count, folder):
    """Score `count` images together with another process and leave the result in the folder."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=2)
    features = ModuleFeatures(TwoHeads().requires_grad_(False))
    metric = GenerativeScores(features, torch.load(Path(folder) / "reference.pt", weights_only=False), **SMALL)
    found = score_generator(metric, images_of, count, 8, rank, 2)
    torch.save((features.module.seen, found), Path(folder) / f"scores_{rank}.pt")
    torch.distributed.destroy_process_group()
