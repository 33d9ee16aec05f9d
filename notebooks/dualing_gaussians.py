# %% [markdown]
# # Dualing GANs: a saddle point that swings, and a dual that does not
#
# The story of "Dualing GANs" (Li, Schwing, Wang, Zemel, 2017). A GAN is $\max_\theta \min_w f(\theta, w)$. What the
# generator climbs, $f(\theta, w)$ at some w on its way, lies above $\min_w f$: it climbs an upper bound, which nothing
# keeps near. With linear scores $w^\top \phi(x)$ the inner minimum has a dual, $\max_\lambda g(\theta, \lambda)$, a
# lower bound, so that both ascend the same function.
#
# Eight Gaussians in the plane; $\phi$ are 256 random Fourier features; the same in both games, as are the initial
# weights, the samples, and Adam for the generator. One seed; `benchmarks/dualing.py` has five.

# %%
import matplotlib.pyplot as plt
import torch
from torch.nn.functional import softplus

from pcgan_lightning.data import ring_of_modes
from pcgan_lightning.games import linear_problem
from pcgan_lightning.metrics import mode_coverage
from pcgan_lightning.networks import MLPGenerator, RandomFourierFeatures

torch.set_num_threads(1)  # matrices so small that more threads wait for one another
CENTERS, STD, C, STEPS = ring_of_modes(), 0.2, 0.01, 200
SHOWN = (0, 50, 100, 200)

# %% [markdown]
# ## No gap
#
# The dual of a batch, solved by Newton's method in logits of $\lambda$, which keep it in its box. Primal and dual meet,
# and w is $\frac1C (\sum \lambda_x \phi(x) - \sum \lambda_z \phi(G(z)))$.

# %%
torch.manual_seed(0)
features = RandomFourierFeatures(count=256, bandwidth=0.5)
real = features(CENTERS[torch.arange(64) % 8] + STD * torch.randn(64, 2)).double()
fake = features(torch.randn(64, 2)).double()
problem = linear_problem(real, fake, C)
for iterations in range(6):
    point, primal = problem.solve(iterations=iterations)
    print(f"{iterations} iterations: primal {primal:.12f}, dual {point.value:.12f}")
point, primal = problem.solve()
assert abs(primal - point.value) < 1e-10

# %% [markdown]
# ## Two games
#
# With fresh samples in each step. `least` is $\min_w f$ on samples that stay the same, solved exactly for both games.


# %%
def draw(count):
    return CENTERS[torch.arange(count) % 8] + STD * torch.randn(count, 2), torch.randn(count, 16)


def play(dual, seed=1):
    """Train; return what 1,000 fixed latents become at some steps, their coverage, min f and the length of w."""
    torch.manual_seed(seed)
    generator, w = MLPGenerator(width=64, latent_dim=16, hidden_layers=2), torch.zeros(256)
    adam = torch.optim.Adam(generator.parameters(), 3e-3, (0.5, 0.999))
    (fixed_real, fixed), samples, series = draw(1000), {}, []
    for step in range(STEPS + 1):
        if step % 10 == 0:
            with torch.no_grad():
                points = generator(fixed)
                least = (
                    linear_problem(features(fixed_real[:256]), features(points[:256]), C).solve(tolerance=1e-5).primal
                )
            found = mode_coverage(points, CENTERS, STD)
            series.append((step, found.modes_covered, found.high_quality_share, least.item(), w.norm().item()))
            samples[step] = points
        real, latents = draw(64)
        real, fake = features(real), features(generator(latents))
        if dual:
            problem = linear_problem(real, fake, C)
            point, _ = problem.solve(-problem.rows.jvp(w), 10, tolerance=1e-4)
            loss, w = problem.saddle(point), point.step
        else:
            v = w.clone().requires_grad_()
            f = C / 2 * v @ v + softplus(-real @ v).mean() / 2 + softplus(fake @ v).mean() / 2
            (slope,) = torch.autograd.grad(f, v, retain_graph=True)
            loss, w = -f, w - slope  # a gradient step of length 1
        adam.zero_grad()
        loss.backward()
        adam.step()
    return samples, series


runs = {"linear dual": play(True), "SGDA": play(False)}

# %%
figure, axes = plt.subplots(2, len(SHOWN), figsize=(12, 6), layout="constrained", sharex=True, sharey=True)
for row, (name, (samples, _)) in zip(axes, runs.items(), strict=True):
    row[0].set_ylabel(name)
    for axis, step in zip(row, SHOWN, strict=True):
        axis.scatter(*samples[step].T, s=1, alpha=0.4)
        axis.plot(*CENTERS.T, "kx", markersize=5)
        axis.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal", title=f"step {step}")
plt.show()

# %%
figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained")
titles = ("modes covered", "share of high-quality samples", r"$\min_w f$ on fixed samples", r"$\|w\|$")
for name, (_, series) in runs.items():
    steps, *curves = zip(*series, strict=True)
    for axis, curve, title in zip(axes, curves, titles, strict=True):
        axis.plot(steps, curve, label=name)
        axis.set(title=title, xlabel="step")
axes[2].axhline(torch.tensor(2.0).log(), color="gray", lw=0.8)  # scores tell nothing
axes[0].legend()
plt.show()

# %% [markdown]
# SGDA's generator is flung out of the plane's middle by a w that lags behind, comes back on one side, and swings. The
# dual's stays about the data from the start. That is all: its samples are a broad cloud over all modes, a quarter
# of them of high quality, and two hundred steps do not sharpen it. Nor is min f monotone: each step climbs that of
# its own fresh samples, by Adam. A step of the dual costs several products with the features more.

# %%
for name, (_, series) in runs.items():
    print(f"{name}: {series[-1][1]} modes, {series[-1][2]:.0%} of high quality, min f {series[-1][3]:.3f}")

# %%
assert runs["linear dual"][1][-1][1] == 8
assert runs["linear dual"][1][-1][3] > runs["SGDA"][1][-1][3]
