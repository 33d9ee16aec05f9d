"""`pcgan generate`: images from a checkpoint."""

import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pcgan_lightning.arguments import require_at_least
from pcgan_lightning.runs import CHECKPOINTS, check_records, require_checkpoint_file

# The functions import torch and Lightning only after the arguments are checked.
if TYPE_CHECKING:
    from pcgan_lightning.modules import TwoPlayerModule


def generate(
    checkpoint: Path,
    output: Path = Path("generated"),
    count: int = 64,
    seed: int = 0,
    grid: bool = False,
    averaged: bool = True,
    batch_size: int = 100,
    device: str = "auto",
) -> None:
    """Generate images from a checkpoint, as PNG files or as one grid.

    The image of a number depends on the seed and the number alone, not on the count or the batch size.

    Args:
        checkpoint: a checkpoint file of a GAN of this package.
        output: folder of the files ``000000.png``, ``000001.png``, ...; with `grid`, the PNG file to write.
        count: number of images.
        seed: seed of the latents.
        grid: one grid instead of files; points are drawn in one picture.
        averaged: use the generator's moving average where the checkpoint has one.
        batch_size: images generated at once.
        device: "auto", "cpu", "cuda", ...
    """
    require_at_least(1, count=count, batch_size=batch_size)
    target = output.with_suffix(".png") if grid else output
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise FileExistsError(f"argument `output` must not exist yet or be an empty folder, got {target}")
    require_checkpoint_file(checkpoint, argument="checkpoint")
    import torch

    from pcgan_lightning.data import draw_samples, to_pillow, to_uint8

    gan, _ = load_gan(checkpoint, device)
    if not grid and len(getattr(gan.generator, "image_shape", "CHW")) == 1:
        raise ValueError("argument `grid` must be true for a generator of points, all in one picture, got False")
    batches = (gan.sample_images(z, averaged=averaged).cpu() for z in gan.fixed_latents(count, seed).split(batch_size))
    (target.parent if grid else target).mkdir(parents=True, exist_ok=True)
    if grid:
        draw_samples(torch.cat(list(batches))).save(target)
    else:
        for number, pixels in enumerate(to_uint8(image) for batch in batches for image in batch):
            to_pillow(pixels).save(target / f"{number:06d}.png")
    print(f"{count} images in {target}", file=sys.stderr)


def load_gan(checkpoint: Path, device: str = "auto") -> tuple["TwoPlayerModule", int]:
    """Return the module of a checkpoint, in evaluation mode, and the iteration at which it was written.

    Args:
        checkpoint: a checkpoint file.
        device: where to put it; "auto" for a GPU where there is one.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no checkpoint, or none of a module of this package with a generator, or there is no such
            device.
    """
    import torch

    from pcgan_lightning.modules import TwoPlayerModule
    from pcgan_lightning.runs import check_hyper_parameters, read_checkpoint

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"argument `device` must be one that torch finds here, got {device!r}") from error
    content = read_checkpoint(checkpoint, argument="checkpoint")
    if checkpoint.resolve().parent.name == CHECKPOINTS:
        check_records(checkpoint.resolve().parents[1], "argument `checkpoint` must be of a run with readable files")
    rule = f"argument `checkpoint` must be a checkpoint of a GAN of this package, got {checkpoint}"
    weights = content["state_dict"]
    if not any(name.startswith("generator.") for name in weights):
        raise ValueError(f"{rule}, which holds no generator")
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and not value.isfinite().all():
            raise ValueError(f"{rule}, whose weights {name!r} are not finite")
    check_hyper_parameters(content, TwoPlayerModule, rule)
    try:
        kind = pkgutil.resolve_name(content["hyper_parameters"]["_class_path"])
        gan = kind.load_from_checkpoint(checkpoint, map_location=device)
        return gan.eval(), int(content["global_step"])
    except Exception as error:  # what an altered file lacks or has too much of may fail anywhere
        reason = (str(error).splitlines() or [""])[0]
        reason = f"which lacks {reason}" if isinstance(error, KeyError) else reason
        raise ValueError(f"{rule}: {reason}") from error
