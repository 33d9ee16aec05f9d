"""A small transformer that writes the pages of this repository, with and without PC-layers.

    python benchmarks/language_model.py --save

With --save each run is written when it is done, and runs that are there, of the same settings and text, are not
repeated. The plan, written before the runs (1,000 updates at width 96 were given up for want of machine time, after a
part of a run without PC-layers and before any with them):

- Text: README.md and docs/*.md as they are, characters. Of every ten pieces of 1,000 characters the last is held out.
- Network: pre-norm, 3 blocks of width 64 with 4 heads, context 64; Kaiming's initialisation of torch, embeddings
  N(0, 0.02). Four linear layers a block get the PC-layers; embeddings and the last layer stay plain.
- Training: AdamW, step size 1e-3 after 50 updates of linear warm-up, then constant, betas (0.9, 0.99), weight decay
  0.1 on matrices alone (on the weights W, not on the scales), batch 16, 600 updates, gradients clipped at norm 1.
  Nobody's step size is tuned: one that suits plain weights may not suit unit ones.
- Compared: no PC-layers; scale "unit" at degree 1 (spectral normalisation), "norm" and "learnable" at degree 7; seeds
  0, 1, 2. With one seed all methods start from the same weights and see the same batches.
- Seconds are processor time of the updates on one thread, power iterations included, evaluation left out.
- What decides: the held-out loss (nats a character) after 600 updates, as the difference to no PC-layers with the
  same seed. A method counts as better, or worse, where all three differences have one sign and their mean is at least
  twice its standard error. Besides: the loss at the second at which the run without PC-layers of the same seed ended.
- Not claimed, whatever comes out: anything about larger models, other texts or tuned step sizes.
"""

import argparse
import hashlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import matplotlib.pyplot as plt
import torch
from results_file import RESULTS, save_result
from torch import Tensor, nn
from torch.nn import functional as F

from pcgan_lightning.spectra import modified_condition_number, precondition, singular_values

ROOT = Path(__file__).parents[1]
PIECE, HELD_OUT = 1000, 10
METHODS: dict[str, Optional[dict[str, Any]]] = {
    "none": None,
    "unit 1": {"degree": 1, "scale": "unit"},
    "norm 7": {"degree": 7, "scale": "norm"},
    "learnable 7": {"degree": 7, "scale": "learnable"},
}


def read_text() -> str:
    """Return the pages of this repository, one after another."""
    return "".join(page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))))


def split(text: str) -> tuple[Tensor, Tensor]:
    """Return the numbers of the characters to learn from, and of those held out."""
    letters = {letter: number for number, letter in enumerate(sorted(set(text)))}
    codes = torch.tensor([letters[letter] for letter in text])
    held_out = torch.arange(len(codes)) // PIECE % HELD_OUT == HELD_OUT - 1
    return codes[~held_out], codes[held_out]


class Block(nn.Module):
    """Attention to earlier characters, then two linear layers, each added to what came in: [N, T, width] both ways."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.queries_keys_values(self.first_norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)  # [N, heads, T, width/heads]
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(attended.transpose(1, 2).flatten(2))
        return x + self.narrow(F.gelu(self.widen(self.second_norm(x))))


class LanguageModel(nn.Module):
    """Characters [N, T] -> logits of the next ones [N, T, letters]."""

    def __init__(self, letters: int, context: int, blocks: int, width: int, heads: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(letters, width), nn.Embedding(context, width)
        for embedding in (self.letters, self.places):
            nn.init.normal_(embedding.weight, std=0.02)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(blocks)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, letters)

    def forward(self, codes: Tensor) -> Tensor:
        x = self.letters(codes) + self.places.weight[: codes.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def windows(codes: Tensor, starts: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """Return characters and the ones after them, [N, context] each."""
    rows = codes[starts.unsqueeze(1) + torch.arange(context + 1)]
    return rows[:, :-1], rows[:, 1:]


def loss_of(model: nn.Module, given: Tensor, following: Tensor) -> Tensor:
    return F.cross_entropy(model(given).flatten(0, 1), following.flatten())


@torch.no_grad()
def held_out_loss(model: nn.Module, codes: Tensor, context: int) -> float:
    """Return the loss over all held-out characters, in windows side by side."""
    starts = torch.arange(0, len(codes) - context, context)
    losses = [loss_of(model, *windows(codes, part, context)) * len(part) for part in starts.split(64)]
    return (torch.stack(losses).sum() / len(starts)).item()


def make_optimizer(model: nn.Module, settings: argparse.Namespace) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.lr, betas=(0.9, 0.99))


def train(model: nn.Module, codes: Tensor, seed: int, settings: argparse.Namespace) -> Iterator[tuple[int, float]]:
    """Train, and give the updates and seconds so far at each interval."""
    optimizer = make_optimizer(model, settings)
    source, seconds = torch.Generator().manual_seed(seed), 0.0
    yield 0, 0.0
    for update in range(1, settings.updates + 1):
        starts = torch.randint(len(codes) - settings.context, (settings.batch_size,), generator=source)
        began = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, update / settings.warm_up)
        optimizer.zero_grad()
        loss_of(model, *windows(codes, starts, settings.context)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.process_time() - began
        if update % settings.every == 0:
            yield update, seconds


def run(method: str, seed: int, text: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Train one model and return its curve."""
    learned, held_out = split(text)
    torch.manual_seed(seed)
    model = LanguageModel(len(set(text)), settings.context, settings.blocks, settings.width, settings.heads)
    options = METHODS[method]
    if options is not None:
        precondition(model.blocks, layers="all", **options)
    row: dict[str, Any] = {"method": method, "seed": seed, "updates": [], "seconds": [], "loss": []}
    for update, seconds in train(model, learned, seed, settings):
        loss = held_out_loss(model, held_out, settings.context)
        for key, value in (("updates", update), ("seconds", seconds), ("loss", loss)):
            row[key].append(value)
        print(f"{method:12} {seed} {update:5} updates {seconds:6.1f} s {loss:.4f}", flush=True)
    conditions = [c.item() for c in modified_condition_number(model.blocks).values()]
    norms = [values[0].item() for values in singular_values(model.blocks).values()]
    row |= {"condition": sum(conditions) / len(conditions), "norms": [min(norms), max(norms)]}
    return row


def saved_rows(settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the runs that an earlier call with these settings has written."""
    path = RESULTS / "language_model.json"
    content = json.loads(path.read_text()) if path.exists() else {"settings": None}
    return content["result"] if content["settings"] == settings else []


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
    for axis, key in zip(axes, ("updates", "seconds"), strict=True):
        for number, method in enumerate(METHODS):
            for row in (r for r in rows if r["method"] == method):
                label = method if row["seed"] == rows[0]["seed"] and key == "updates" else None
                axis.plot(row[key], row["loss"], color=f"C{number}", alpha=0.8, linewidth=1, label=label)
        axis.set_xlabel({"updates": "updates", "seconds": "seconds of processor time"}[key])
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="held-out loss, nats a character", ylim=(None, 3.2))
    axes[0].legend(title="scale, degree")
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=600)
    parser.add_argument("--every", type=int, default=50, help="updates between evaluations")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--blocks", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--warm_up", type=int, default=50, help="updates")
    parser.add_argument("--weight_decay", type=float, default=0.1)
    parser.add_argument("--save", action="store_true", help="write results/language_model.json and a picture")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    text = read_text()
    settings = {key: value for key, value in vars(arguments).items() if key != "save"}
    settings |= {"characters": len(text), "text": hashlib.sha256(text.encode()).hexdigest()[:12]}
    rows = saved_rows(settings) if arguments.save else []
    # Seed by seed, so that a machine that grows slower does so for all methods.
    for seed in arguments.seeds:
        for method in arguments.methods:
            if not any((row["method"], row["seed"]) == (method, seed) for row in rows):
                rows.append(run(method, seed, text, arguments))
            if arguments.save:
                save_result("language_model", settings, rows)
    if arguments.save:
        draw(rows, ROOT / "docs" / "language_model.png")


if __name__ == "__main__":
    main()
