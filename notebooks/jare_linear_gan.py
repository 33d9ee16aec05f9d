# %% [markdown]
# # The linear GAN: phase factor, conditioning factor, and what JARE does about them
#
# "Towards a better understanding and regularization of GAN training dynamics" studies data $x \sim N(v, \sigma^2 I)$,
# a generator $G(z) = z + \phi$ with $z \sim N(0, \sigma^2 I)$ and a discriminator $D(x) = \theta^T x$, where $G$
# minimises what $D$ maximises, $E[\log \sigma(D(x))] + E[\log \sigma(-D(G(z)))]$. Here: the eigenvalues of the game's
# Jacobian against the theorems, trajectories under SimGD, ConOpt and JARE, and iteration counts against the
# corollaries.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from pcgan_lightning.games import (
    LinearGAN,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    equilibrium_jacobian,
    phase_factor,
    phase_iterations,
)

# %% [markdown]
# ## Eigenvalues against Theorems 1 and 3
#
# The Jacobian by automatic differentiation in float64, at 60 random $(\sigma, v, \gamma)$ in 1 to 6 dimensions, on
# sigma points $\pm\sigma\sqrt{n}\,e_i$ around the means, which have exactly the right mean and covariance. For each
# eigenvalue $s$ of $E[xx^T]$, that is $\sigma^2 + \|v\|^2$ once and $\sigma^2$ for the other $n - 1$ directions,
#
# $$\text{SimGD: } \frac{-s \pm \sqrt{s^2 - 4}}{4} \qquad
# \text{JARE: } \frac{-(s+\gamma) \pm \sqrt{(s+\gamma)^2 - (\gamma^2+4)}}{4} \qquad
# \text{ConOpt: } \frac{-T \pm \sqrt{T^2 - 4(\gamma^2 + 2\gamma s + 4)}}{8},\ \ T = 2s + 2\gamma + \gamma s^2.$$
#
# The first two are as printed; the paper leaves out the multiplicities, and in one dimension there is no pair of
# $\sigma^2$. ConOpt's is not in the paper: its Jacobian at an equilibrium is $J - \gamma J^T J$, with SimGD's $J$. The
# theorems say "for any point" of a neighbourhood; they are exact at the equilibrium itself.


# %%
def relative_error(found, expected):
    """The largest, over the expected eigenvalues, each with the nearest one found."""
    return ((found[:, None] - expected).abs().amin(0) / expected.abs()).max().item()


source = torch.Generator().manual_seed(0)
errors = {"SimGD": [], "JARE": [], "ConOpt": []}
for _ in range(60):
    n = int(torch.randint(1, 7, (), generator=source))
    sigma, scale, power = torch.rand(3, generator=source, dtype=torch.float64).tolist()
    gan = LinearGAN(2 * scale * torch.randn(n, generator=source, dtype=torch.float64), 0.1 + 1.9 * sigma)
    gamma = 10 ** (3 * power - 1.5)
    for name, own, other in (("SimGD", 0.0, 0.0), ("JARE", 0.0, gamma), ("ConOpt", gamma, gamma)):
        found = torch.linalg.eigvals(gan.game(own, other).jacobian())
        errors[name].append(relative_error(found, gan.eigenvalues(own, other)))
for name, values in errors.items():
    print(f"{name:6} {len(values)} settings, largest relative error of an eigenvalue {max(values):.1e}")

# %%
assert max(max(values) for values in errors.values()) < 1e-9

# %% [markdown]
# On samples instead, the Jacobian errs by $N^{-1/2}$: root mean squares over 20 draws.

# %%
gan, sizes = LinearGAN(torch.tensor([1.0, -0.5]), 0.8), [100, 400, 1600, 6400]
monte_carlo = {}
for name, other in (("SimGD", 0.0), ("JARE", 2.0)):
    exact = gan.jacobian(0.0, other)
    draws = [[gan.game(0.0, other, size, seed).jacobian() for seed in range(20)] for size in sizes]
    squares = [[(found - exact).square().sum().item() for found in of_size] for of_size in draws]
    monte_carlo[name] = np.sqrt(np.mean(squares, 1))
    slope = np.polyfit(np.log(sizes), np.log(monte_carlo[name]), 1)[0]
    print(f"{name:6} error at N = {sizes}: {monte_carlo[name].round(3)}, log-log slope {slope:.2f}")
    assert -0.65 < slope < -0.35

# %% [markdown]
# ## Two factors
#
# $\zeta = \max|\mathrm{Im}\,\lambda / \mathrm{Re}\,\lambda|$ and $\tau = \max|\lambda_j/\lambda_k|$, for $\|v\| = 2$.
# SimGD has a large $\zeta$ where $\sigma$ is small, and a large $\tau$ where it is large. ConOpt turns the first into
# a second: for large $\gamma$ its eigenvalues are those of $-\gamma J^T J$, whose ratio is the square of J's condition
# number. JARE's $\zeta$ becomes exactly 0, from $\gamma = (4 - \sigma^4) / 2\sigma^2$ on, and its $\tau$ goes to 1,
# slowly: $\tau - 1 \approx 2\sqrt{2s/\gamma}$ with $s = \sigma^2 + \|v\|^2$.

# %%
sigmas = torch.logspace(-1, 0.7, 100)
spread = LinearGAN(torch.tensor([0.0, 2.0]), sigmas)
figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
for gamma, style in ((1.0, "--"), (10.0, "-"), (100.0, ":")):
    for name, own, color in (("ConOpt", gamma, "C1"), ("JARE", 0.0, "C2")):
        values = spread.eigenvalues(own, gamma)
        label = rf"{name}, $\gamma$ = {gamma:g}"
        axes[0].loglog(sigmas, phase_factor(values).clamp_min(1e-3), style, color=color, label=label)
        axes[1].loglog(sigmas, conditioning_factor(values), style, color=color, label=label)
values = spread.eigenvalues()
axes[0].loglog(sigmas, phase_factor(values).clamp_min(1e-3), "C0", label="SimGD")
axes[1].loglog(sigmas, conditioning_factor(values), "C0", label="SimGD")
axes[0].set(title=r"phase factor $\zeta$ (0 at the bottom)", xlabel=r"$\sigma$")
axes[1].set(title=r"conditioning factor $\tau$", xlabel=r"$\sigma$")
authors = LinearGAN(torch.tensor([0.0, 2.0]), 0.7)
for name, own, other in (("SimGD", 0.0, 0.0), ("ConOpt", 10.0, 10.0), ("JARE", 0.0, 10.0)):
    values = authors.eigenvalues(own, other)
    axes[2].plot(values.real, values.imag, "o", label=name)
    zeta, tau = phase_factor(values), conditioning_factor(values)
    best = best_step_size(values)
    print(f"{name:6} sigma = 0.7, gamma = {other:2g}: zeta {zeta:4.2f}, tau {tau:6.2f}, best step {best:.3f}")
axes[2].set(title=r"eigenvalues, $\sigma = 0.7, \gamma = 10$", xlabel="Re", ylabel="Im", xscale="symlog")
axes[0].legend(fontsize=7)
axes[2].legend()
plt.show()

# %%
gammas = torch.tensor([1e4, 1e6], dtype=torch.float64)
limit = authors.eigenvalues(0.0, gammas[1])
s = authors.second_moments().max()
assert phase_factor(limit) == 0
assert abs((conditioning_factor(limit) - 1) / (2 * (2 * s / gammas[1]).sqrt()) - 1) < 0.02

# %% [markdown]
# ## Trajectories, with the authors' settings
#
# $v = (0, 2)$, $\sigma = 0.7$, start at $\phi = v + 0.05$, $\theta = 0.05$, simultaneous SGD with step 1e-3 on batches
# of 128, 15,000 steps, $\gamma = 10$. All three methods see the same samples, and the dots show the noiseless games on
# the sigma points.

# %%
methods = {"SimGD": (0.0, 0.0), "ConOpt": (10.0, 10.0), "JARE": (0.0, 10.0)}
own, other = torch.tensor(list(methods.values())).T
three = LinearGAN(torch.tensor([0.0, 2.0]), 0.7 * torch.ones(3))
run = three.play(1e-3, 15_000, own, other, samples=128, record_every=50)
# The noiseless game is smooth on this scale: steps ten times as long tell the same.
noiseless = three.play(1e-2, 1500, own, other, record_every=10)
figure, axes = plt.subplots(1, 4, figsize=(17, 3.8), layout="constrained")
for i, name in enumerate(methods):
    for j, direction in enumerate(("across v", "along v")):
        axes[i].plot(run.error[:, i, 0, j], run.error[:, i, 1, j], label=direction)
        axes[i].plot(noiseless.error[:, i, 0, j], noiseless.error[:, i, 1, j], "k:", lw=1)
    axes[i].plot(0, 0, "r*")
    axes[i].set(title=name, xlabel=r"$\phi - v$", ylabel=r"$\theta$")
    axes[3].semilogy(run.iteration, run.distance()[:, i], f"C{i}", label=name)
    axes[3].semilogy(10 * noiseless.iteration, noiseless.distance()[:, i], f"C{i}:")
    print(f"{name:6} distance to the equilibrium: {run.distance()[0, i]:.3f} -> {run.distance()[-1, i]:.5f}, "
          f"without noise {noiseless.distance()[-1, i]:.1e}")  # fmt: skip
axes[0].legend()
axes[3].set(title="distance to the equilibrium", xlabel="iteration")
axes[3].legend()
plt.show()

# %%
last = noiseless.distance()[-1]
assert last[2] < 1e-6
assert last[:2].min() > 1e-3

# %% [markdown]
# ## Iteration counts: Corollaries 1 and 2
#
# Iterations until the distance stays below a thousandth of the first one, of the nonlinear game at its best step size.
# Corollary 1: where all eigenvalues are complex, at least $2\log(C_0/\epsilon) / \log(1 + 1/\zeta^2)$, that is
# $\propto\zeta^2$, at steps below $4/\sqrt{1+\zeta^2}$. Corollary 2: where all are real, at least
# $\log(\epsilon/C_1) / \log(1 - 2/\tau)$, that is $\propto\tau$, at steps below $4/\sqrt\tau$. We find both as printed:
# the iteration bounds hold in any game, the step bounds for SimGD here, as both eigenvalues of a pair multiply to 1/4.

# %%
phase = LinearGAN(torch.tensor([0.7, -0.7]), torch.logspace(-0.55, -0.1, 8))  # v across the start, where zeta is
conditioning = LinearGAN(torch.logspace(0.2, 0.8, 8)[:, None] * torch.tensor([0.7, 0.7]), 1.5)
slopes = {}
figure, axes = plt.subplots(1, 2, figsize=(11, 3.8), layout="constrained")
for axis, name, gans, factor, bound, offset in (
    (axes[0], "zeta", phase, phase_factor, phase_iterations, 0.01),
    (axes[1], "tau", conditioning, conditioning_factor, conditioning_iterations, 0.001),
):
    values = gans.eigenvalues()
    factors = factor(values)
    played = gans.play(best_step_size(values), int(1.3 * bound(factors.max().item(), 1e3)), offset=offset)
    counts = played.iterations_to(1e-3 * played.distance()[0, 0].item())
    slopes[name] = np.polyfit(factors.log().numpy(), counts.log().numpy(), 1)[0]
    print(f"{name}: {np.round(factors.tolist(), 1)}\niterations: {counts.int().tolist()}\n"
          f"the corollary: {bound(factors, 1e3).int().tolist()}\nlog-log slope {slopes[name]:.2f}\n")  # fmt: skip
    axis.loglog(factors, counts, "o", label=f"counted, slope {slopes[name]:.2f}")
    axis.loglog(factors, bound(factors, 1e3), label="the corollary")
    axis.set(xlabel=name, ylabel="iterations")
    axis.legend()
plt.show()

# %%
assert abs(slopes["zeta"] - 2) < 0.1
assert abs(slopes["tau"] - 1) < 0.1

# %% [markdown]
# ## Beyond the linear GAN
#
# At an equilibrium of any GAN where $D = 0$, SimGD's Jacobian is $\begin{bmatrix} 0 & -P \\ P^T & Q \end{bmatrix}$
# (Lemma 3), and with the weight $\gamma$ JARE's is $\begin{bmatrix} -\gamma PP^T & -P - \gamma PQ \\ P^T & Q - \gamma
# P^TP \end{bmatrix}$. Three remarks on the print. With $n$ numbers in $\phi$ and $m$ in $\theta$, $P$ is $n \times m$,
# not $m \times n$. Theorem 4 is silent about at least $n - m$ eigenvalues 0, of eigenvectors without a part in
# $\theta$. And in the limit of Theorem 5, $\lambda/\gamma$ goes to the eigenvalues of $-P^TP$ *and* of $-PP^T$.

# %%
torch.manual_seed(0)
n, m, gamma = 4, 2, 1e8
P, Q = torch.randn(n, m, dtype=torch.float64), torch.randn(m, m, dtype=torch.float64)
Q = -Q @ Q.T
zeros = (torch.linalg.eigvals(equilibrium_jacobian(P, Q)).abs() < 1e-12).sum().item()
found = (torch.linalg.eigvals(equilibrium_jacobian(P, Q, other=gamma)).real / gamma).sort().values
expected = torch.cat([torch.linalg.eigvalsh(-P.T @ P), torch.linalg.eigvalsh(-P @ P.T)]).sort().values
print(f"SimGD has {zeros} eigenvalues 0 at n = {n}, m = {m}.")
print("JARE's over gamma:", found.numpy().round(3), "\nthe limit:        ", expected.numpy().round(3))

# %%
assert zeros == n - m
assert (found - expected).abs().max() < 1e-2
