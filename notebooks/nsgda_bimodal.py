# %% [markdown]
# # Why SGDA loses a mode, and normalised SGDA does not
#
# The bimodal game of Section 3 of "Dissecting adaptive methods in GANs": data at two unit vectors $u_1, u_2$ with
# $\langle u_1, u_2 \rangle = 1/\log d$, a linear generator, a cubic discriminator, batches of one. Theorem 3.1 says
# that SGDA's generator learns at most the average $u_1 + u_2$, whatever the step sizes; Theorem 3.2 that nSGDA's learns
# both modes. Here $d = 200$, all seeds are played at once, and each player starts at neurons of length 0.1. The paper
# draws $a$ from a small Gaussian; here it starts at 1: with $a$ near 0 the first steps decide little else than its
# sign, and a game that starts with $a < 0$ first has to turn it around.

# %%
import matplotlib.pyplot as plt

from pcgan_lightning.games import BimodalGame

game = BimodalGame(dimension=200)
# Step sizes of D: large enough to learn within the budget, small enough not to diverge before.
SGDA = {"rule": "sgda", "discriminator_rate": 0.1, "iterations": 4000}
NSGDA = {"rule": "nsgda", "discriminator_rate": 0.05, "iterations": 2000}


def play(settings, ratio, seeds, record_every=50, faster=1.0):
    """Play with eta_D / eta_G = ratio, both `faster` times as fast."""
    rate = faster * settings["discriminator_rate"]
    settings = settings | {"discriminator_rate": rate, "generator_rate": rate / ratio}
    return game.play(**settings, seeds=seeds, record_every=record_every)


# %% [markdown]
# ## Figure 3: one seed, step by step
#
# (a) the relative update speeds of both players, a step's length over that of the parameters; (b) the cosines of D's
# neurons with the modes and with their average $u_1 + u_2$, the largest over the neurons; (c) those of G's neurons;
# (d) all of G's neurons at the end. Under SGDA, D moves first and settles on the average before G has moved at all, and
# G learns that average; the game is stopped there, when G has outgrown the data (from where on SGDA diverges). Under
# nSGDA both move at the same pace from the start, and G's neurons divide into two groups, one for each mode.

# %%
figure, axes = plt.subplots(2, 4, figsize=(15, 6), layout="constrained")
for row, (name, settings, ratio) in zip(axes, (("SGDA", SGDA, 1.0), ("nSGDA", NSGDA, 1.1)), strict=True):
    run = play(settings, ratio, range(7, 8), record_every=10)
    row[0].semilogy(run.iteration, run.discriminator_speed[:, 0], label="D")
    row[0].semilogy(run.iteration, run.generator_speed[:, 0], label="G", alpha=0.7)
    row[0].set(title=f"{name}: (a) relative update speed", ylim=(1e-7, 1))
    for axis, cosines, title in (
        (row[1], run.discriminator_cosines, "(b) D's neurons"),
        (row[2], run.generator_cosines, "(c) G's neurons"),
    ):
        axis.plot(run.iteration, cosines[:, 0].abs().amax(1)[:, :2], label=["$u_1$", "$u_2$"])
        axis.plot(run.iteration, cosines[:, 0].abs().amax(1)[:, 2], "k--", label="$u_1 + u_2$")
        axis.set(title=f"{title}, largest |cosine|", ylim=(0, 1.02))
    final = run.generator_cosines[-1, 0]
    row[3].plot([-0.3, 1], [-0.3, 1], "k:", lw=1)
    row[3].scatter(final[:, 0], final[:, 1])
    row[3].set(
        title="(d) G's neurons at the end", xlabel="cosine with $u_1$", ylabel="cosine with $u_2$",
        xlim=(-0.3, 1.05), ylim=(-0.3, 1.05),
    )  # fmt: skip
    for axis in row[:3]:
        axis.set_xlabel("iteration")
        axis.legend()
plt.show()

# %% [markdown]
# ## Theorems 3.1 and 3.2: 100 seeds, over a grid of ratios $\eta_D / \eta_G$
#
# A mode counts as recovered when a neuron of G has a cosine of at least 0.9 with it (the average has 0.77 with either).
# For SGDA we count a seed if both modes were recovered at *any* recorded time, for nSGDA at the end. Where SGDA's
# generator is much slower than its discriminator, both get larger steps, or it would not have learnt anything yet.

# %%
seeds = range(100)
grid = {"SGDA": (SGDA, (0.1, 0.3, 1.0, 3.0, 10.0)), "nSGDA": (NSGDA, (0.5, 0.8, 1.0, 1.1, 1.25, 2.0))}
results = {}
print(f"{'':6} {'ratio':>6} {'both modes':>11} {'one mode':>9} {'average learnt':>15}")
for name, (settings, ratios) in grid.items():
    for ratio in ratios:
        faster = {3.0: 2.0, 10.0: 6.0}.get(ratio, 1.0) if name == "SGDA" else 1.0
        run = play(settings, ratio, seeds, 100, faster)
        modes = run.modes_recovered()
        both = (modes == 2).any(0) if name == "SGDA" else modes[-1] == 2
        average = (run.generator_cosines[-1, ..., 2] > 0.95).any(1)
        results[name, ratio] = both.double().mean().item()
        one = (modes[-1] == 1).double().mean()
        print(f"{name:6} {ratio:6} {results[name, ratio]:11.0%} {one:9.0%} {average.double().mean():15.0%}")

# %%
figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
for name, (_, ratios) in grid.items():
    axis.plot(ratios, [results[name, ratio] for ratio in ratios], "o-", label=name)
axis.axvline(1.0, color="gray", lw=0.8)
axis.set(xscale="log", xlabel=r"$\eta_D / \eta_G$", ylabel="seeds that recover both modes", ylim=(-0.02, 1.02))
axis.legend()
plt.show()

# %% [markdown]
# ## Where it does not hold: nSGDA never comes to rest
#
# Its steps have a constant length, and at an equilibrium the normalised gradients of single images point anywhere. So
# the players wander about what they have learnt, and some seeds lose a mode again. Here $\eta_D / \eta_G = 1.1$.

# %%
figure, axis = plt.subplots(figsize=(7, 3.5), layout="constrained")
run = play(NSGDA | {"iterations": 4000}, 1.1, seeds, record_every=250)
both = run.modes_recovered() == 2
shares = both.double().mean(1)
axis.plot(run.iteration, shares, "o-")
axis.set(xlabel="iteration", ylabel="seeds that have both modes", ylim=(-0.02, 1.02))
plt.show()
for t, share in list(zip(run.iteration.tolist(), shares.tolist(), strict=True))[::4]:
    print(f"after {t} iterations: {share:.0%}")
print(f"at any recorded time: {both.any(0).double().mean():.0%}")

# %%
worst_sgda = max(share for (name, _), share in results.items() if name == "SGDA")
slightly_slower = min(results["nSGDA", ratio] for ratio in (1.1, 1.25))
print(f"SGDA: at most {worst_sgda:.0%}. nSGDA with eta_G slightly below eta_D: at least {slightly_slower:.0%}.")

# %%
assert worst_sgda <= 0.05
assert slightly_slower >= 0.9
