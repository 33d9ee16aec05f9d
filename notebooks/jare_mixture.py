# %% [markdown]
# # A mixture of Gaussians: SimGD, ConOpt and JARE over time
#
# The second experiment of "Towards a better understanding and regularization of GAN training dynamics": data from eight
# Gaussians on a circle, both players MLPs with four hidden layers, the minimax loss, RMSProp for both players at once,
# $\gamma = 10$. The talk's claim: "Only SimGD oscillates among different modes and fails to converge."
#
# To take less than a minute, layers are 64 wide instead of 256, and 2,000 steps of 1e-3 stand for 20,000 of 1e-4. One
# seed; `benchmarks/mixture.py` has more of them, and the published width and step size.

# %%
import matplotlib.pyplot as plt
import torch

from pcgan_lightning.data import ring_of_modes
from pcgan_lightning.games import JARE, ConOpt, SimGD
from pcgan_lightning.losses import SaturatingLoss
from pcgan_lightning.metrics import mode_coverage
from pcgan_lightning.networks import MLPDiscriminator, MLPGenerator

torch.set_num_threads(1)  # matrices so small that more threads wait for one another
STEPS, SHOWN = 2000, (250, 500, 1000, 1500, 2000)
CENTERS, STD, BATCH = ring_of_modes(), 0.06, 128
METHODS = {"SimGD": SimGD(), "ConOpt": ConOpt(gamma=10.0), "JARE": JARE(gamma=10.0)}


def play(method, seed=0):
    """Train; return what 2,500 fixed latents become, and the modes that they cover, every 50 steps."""
    torch.manual_seed(seed)
    generator, discriminator, loss = MLPGenerator(width=64), MLPDiscriminator(width=64), SaturatingLoss()
    players = [list(network.parameters()) for network in (generator, discriminator)]
    # Decay and epsilon of TensorFlow's RMSProp, which the authors used.
    optimizers = [torch.optim.RMSprop(own, lr=1e-3, alpha=0.9, eps=1e-5) for own in players]
    fixed, samples, coverage = torch.randn(2500, generator.latent_dim), {}, {}
    for step in range(STEPS + 1):
        if step % 50 == 0:
            with torch.no_grad():
                samples[step] = generator(fixed)
            coverage[step] = mode_coverage(samples[step], CENTERS, STD)
        real = CENTERS[torch.arange(BATCH) % len(CENTERS)] + STD * torch.randn(BATCH, 2)
        fake_scores = discriminator(generator(torch.randn(BATCH, generator.latent_dim)))
        losses = loss.generator(fake_scores), loss.discriminator(discriminator(real), fake_scores)
        for own, optimizer, gradients in zip(players, optimizers, method(*losses, *players), strict=True):
            for parameter, gradient in zip(own, gradients, strict=True):
                parameter.grad = gradient
            optimizer.step()
    return samples, coverage


runs = {name: play(method) for name, method in METHODS.items()}

# %% [markdown]
# ## Samples over time
#
# The same latents in every panel; crosses are the modes.

# %%
figure, axes = plt.subplots(
    len(runs), len(SHOWN), figsize=(12, 7.4), layout="constrained", sharex=True, sharey=True, squeeze=False
)
for row, (name, (samples, _)) in zip(axes, runs.items(), strict=True):
    row[0].set_ylabel(name)
    for axis, step in zip(row, SHOWN, strict=True):
        axis.scatter(*samples[step].T, s=1, alpha=0.3)
        axis.plot(*CENTERS.T, "kx", markersize=5)
        axis.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
for axis, step in zip(axes[0], SHOWN, strict=True):
    axis.set_title(f"step {step:,}")
plt.show()

# %% [markdown]
# ## Modes over time
#
# Left: modes covered, by the usual count: a sample within three standard deviations of its nearest mode is of high
# quality, and 20 such samples of 2,500 cover a mode. Middle: the share of high-quality samples. Right: the share of all
# samples that are nearest to the most frequented mode, however far from it; 1/8 where all are visited alike. The last
# one shows the oscillation: SimGD's generator moves from some modes to others.

# %%
figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.2), layout="constrained")
largest = {}
for name, (samples, coverage) in runs.items():
    nearest = [
        torch.cdist(points, CENTERS).argmin(1).bincount(minlength=8) / len(points) for points in samples.values()
    ]
    largest[name] = [shares.max().item() for shares in nearest]
    left.plot(coverage.keys(), [found.modes_covered for found in coverage.values()], label=name)
    middle.plot(coverage.keys(), [found.high_quality_share for found in coverage.values()])
    right.plot(samples.keys(), largest[name])
right.axhline(1 / 8, color="gray", lw=0.8)
left.set(title="modes covered", xlabel="step", ylim=(-0.2, 8.2))
middle.set(title="share of high-quality samples", xlabel="step", ylim=(0, None))
right.set(title="share of the most frequented mode", xlabel="step", ylim=(0, 1))
left.legend()
plt.show()

# %% [markdown]
# ConOpt and JARE spread over all modes from the start and then draw together, slowly; after these few steps most of
# their samples still lie between the modes. SimGD's discriminator wins, and its generator chases a few modes at a time:
# its samples may well be of higher quality, in the modes where they happen to be.

# %%
second_half = {name: shares[len(shares) // 2 :] for name, shares in largest.items()}
for name, (_, coverage) in runs.items():
    last, most = coverage[STEPS], sum(second_half[name]) / len(second_half[name])
    print(
        f"{name:6}: {last.modes_covered} modes, {last.high_quality_share:.0%} of high quality; over the second half, "
        f"{most:.0%} of the samples at the most frequented mode"
    )

# %%
assert all(runs[name][1][STEPS].modes_covered >= 7 for name in ("ConOpt", "JARE"))
assert runs["SimGD"][1][STEPS].modes_covered <= 5
assert all(sum(second_half["SimGD"]) > 1.5 * sum(second_half[name]) for name in ("ConOpt", "JARE"))
