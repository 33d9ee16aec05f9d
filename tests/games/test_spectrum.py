"""Eigenvalues of games, their factors and step sizes."""

import math

import pytest
import torch

from pcgan_lightning.games import (
    EigenvaluesNotConverged,
    Game,
    LinearGAN,
    best_step_size,
    conditioning_factor,
    conditioning_iterations,
    every_eigenvalue,
    largest_step_size,
    leading_eigenvalues,
    phase_factor,
    phase_iterations,
)

KEYS = {"modulus": torch.abs, "real": torch.real, "imaginary": lambda values: values.imag.abs()}


def linear_game(matrix, generator=1):
    """A game whose update direction is matrix @ w, whatever the matrix: its losses are no functions, see Products."""
    x = torch.zeros(generator, dtype=matrix.dtype, requires_grad=True)
    y = torch.zeros(len(matrix) - generator, dtype=matrix.dtype, requires_grad=True)

    def losses():
        v = matrix @ torch.cat([x, y])
        return -Products.apply(v[:generator], x).sum(), -Products.apply(v[generator:], y).sum()

    return Game(losses, [x], [y])


class Products(torch.autograd.Function):
    """v * w, with the derivative v by w and none by v, though v may depend on w."""

    @staticmethod
    def forward(ctx, v, w):
        ctx.save_for_backward(v)
        return v * w

    @staticmethod
    def backward(ctx, gradient):
        return None, gradient * ctx.saved_tensors[0]


@pytest.mark.parametrize("which", KEYS)
def test_leading_eigenvalues_of_any_matrix(which):
    matrix = torch.randn(60, 60, dtype=torch.float64)
    game = linear_game(matrix, generator=25)
    torch.testing.assert_close(game.jacobian(), matrix)
    everything = torch.linalg.eigvals(matrix)
    keys = KEYS[which](everything).sort(descending=True).values
    found = leading_eigenvalues(game, 5, which, tolerance=1e-12)
    assert (found.dtype, found.shape) == (torch.complex128, (5,))
    # The test matrix is not normal: its eigenvalues are some ten times more sensitive than the products.
    torch.testing.assert_close(KEYS[which](found), keys[:5], rtol=1e-9, atol=0)
    assert (found[:, None] - everything).abs().amin(1).max() < 1e-9


def test_leading_eigenvalues_of_a_large_game():
    """1,500 linear GANs of dimension 4, 12,000 parameters: the theorems know all eigenvalues of their direct sum."""
    source = torch.Generator().manual_seed(0)
    sigma = 0.2 + torch.rand(1_500, generator=source, dtype=torch.float64)
    means = torch.randn(1_500, 4, generator=source, dtype=torch.float64) / 2
    means[[77, 400, 999, 1_400]] += torch.tensor([[4.0], [3.0], [2.5], [2.0]])
    gans = LinearGAN(means, sigma)
    for other in (0.0, 2.0):
        game = gans.game(other=other)
        assert game.size == 12_000
        expected = gans.eigenvalues(other=other).flatten()
        expected = expected[expected.abs().argsort(descending=True)][:4]
        found = leading_eigenvalues(game, 4, tolerance=1e-10, max_products=200)
        assert ((found - expected).abs() / expected.abs()).max() < 1e-9


def test_in_float32_and_small():
    matrix = torch.randn(40, 40)
    leading = torch.linalg.eigvals(matrix.double()).abs().max().item()
    assert leading_eigenvalues(linear_game(matrix), 1)[0].abs().item() == pytest.approx(leading, rel=1e-3)
    small = torch.diag(torch.tensor([1.0, -3.0, 2.0]))
    assert leading_eigenvalues(linear_game(small), 5).tolist() == [-3, 2, 1]
    assert leading_eigenvalues(linear_game(small), 2, "real").tolist() == [2, 1]
    assert leading_eigenvalues(linear_game(torch.zeros(50, 50)), 3).tolist() == [0, 0, 0]


def test_global_randomness_plays_no_part():
    game = linear_game(torch.randn(50, 50).double())
    state = torch.get_rng_state()
    first = leading_eigenvalues(game)
    assert torch.equal(first, leading_eigenvalues(game))
    assert torch.equal(state, torch.get_rng_state())


def test_products_are_bounded_and_what_has_converged_is_kept(monkeypatch):
    """One eigenvalue far out, the others on a circle, where they do not converge."""
    matrix = torch.block_diag(torch.tensor([[7.0]]), torch.roll(torch.eye(400), 1, 0)).double()
    game, counted = linear_game(matrix), []
    linear = game.linearize()
    monkeypatch.setattr(game, "linearize", lambda: linear)
    monkeypatch.setattr(linear, "jvp", lambda vector: counted.append(vector) or type(linear).jvp(linear, vector))
    message = "must be larger for 4 eigenvalues of this game, got 150, after which 1 had converged"
    with pytest.raises(EigenvaluesNotConverged, match=message) as raised:
        leading_eigenvalues(game, 4, max_products=150)
    assert raised.value.eigenvalues.tolist() == pytest.approx([7.0])
    assert 100 < len(counted) <= 150


@pytest.mark.parametrize(
    ("values", "phase", "conditioning"),
    [
        ([[-1 + 2j, -1 - 2j, -5 + 0j], [-3 + 0j, -1 + 0j, -0.5 + 0j]], [2.0, 0.0], [math.sqrt(5), 6.0]),
        ([1j, -1 + 0j], math.inf, 1.0),
        ([0j, -1 + 1j], 1.0, math.inf),
        ([0j], 0.0, math.inf),
        ([-2.0, 0.5], 0.0, 4.0),
        ([complex(math.nan, 0.0), -1 + 2j], math.nan, math.nan),
    ],
)
def test_factors(values, phase, conditioning):
    values = torch.tensor(values)
    for dtype in (values.dtype, torch.promote_types(values.dtype, torch.float64)):
        for factor, expected in ((phase_factor, phase), (conditioning_factor, conditioning)):
            expected = torch.tensor(expected, dtype=dtype.to_real())
            torch.testing.assert_close(factor(values.to(dtype)), expected, equal_nan=True)


def test_step_sizes_of_random_spectra():
    """Against a fine grid."""
    source = torch.Generator().manual_seed(0)
    parts = torch.rand(2, 20, 5, generator=source, dtype=torch.float64)
    values = torch.complex(-2 * parts[0], 3 * parts[1])
    grid = torch.linspace(0, 3, 100_001, dtype=torch.float64)
    for eigenvalues, largest, best in zip(values, largest_step_size(values), best_step_size(values), strict=True):
        factors = (1 + grid[:, None] * eigenvalues).abs().amax(1)
        assert grid[factors.argmin()].item() == pytest.approx(best.item(), abs=1e-4)
        assert grid[1:][factors[1:] < 1].max().item() == pytest.approx(largest.item(), abs=1e-4)
    for unstable in ([0.1 + 1j, -1 + 0j], [0.5 + 1j], [-1.0, 0.0]):
        assert largest_step_size(torch.tensor(unstable)) == best_step_size(torch.tensor(unstable)) == 0


def test_bounds_of_the_corollaries():
    """The fewest iterations, reached by the best step at one complex pair, nearly reached at two real eigenvalues."""
    for phase in (0.5, 3.0, 40.0):
        pair = torch.tensor([complex(-0.3, 0.3 * phase)])
        factor = (1 + best_step_size(pair) * pair).abs()
        assert phase_iterations(phase, 1e3).item() == pytest.approx(-math.log(1e3) / factor.log().item(), rel=1e-4)
    for conditioning in (30.0, 1000.0):
        two = torch.tensor([-0.2, -0.2 * conditioning], dtype=torch.float64).to(torch.complex128)
        factor = (1 + best_step_size(two) * two).abs().max()
        needed = -math.log(1e3) / factor.log().item()
        assert needed == pytest.approx(conditioning_iterations(conditioning, 1e3).item(), rel=2 / conditioning)
        assert needed > conditioning_iterations(conditioning, 1e3)
    # They grow with the square of zeta and with tau.
    assert (phase_iterations(200.0, 50) / phase_iterations(100.0, 50)).item() == pytest.approx(4, rel=1e-4)
    assert (conditioning_iterations(2e4, 50) / conditioning_iterations(1e4, 50)).item() == pytest.approx(2, rel=1e-3)
    assert phase_iterations(0.0, 10) == conditioning_iterations(torch.tensor([1.0, 2.0]), 10).max() == 0


def test_zeros_that_a_solver_rounds():
    """A of rank 2: -4 +- i sqrt(1600 - 16) and 78 zeros at a = b = 0, which solvers see as noise."""
    a, b = (torch.zeros(40, dtype=torch.float64, requires_grad=True) for _ in range(2))
    game = Game(lambda: (a.sum() * b.sum(), -a.sum() * b.sum() + 0.1 * b.sum() ** 2), [a], [b])
    values, phase = every_eigenvalue(game), math.sqrt(1600 - 16) / 4
    assert phase_factor(values, 1e-10).item() == pytest.approx(phase, rel=1e-9)
    assert conditioning_factor(values, 1e-10) == math.inf
    assert values[:2].abs().tolist() == pytest.approx([40.0, 40.0], rel=1e-9)  # the determinant of the block is 1600
    leading = leading_eigenvalues(game, count=2)
    assert leading.imag.abs().tolist() == pytest.approx([phase * 4] * 2, rel=1e-6)


@pytest.mark.parametrize("which", KEYS)
def test_a_nilpotent_game(which):
    """All eigenvalues are 0, and A A = 0."""
    matrix = torch.randn(40, 40, dtype=torch.float64)
    a, b = (torch.ones(40, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert leading_eigenvalues(Game(lambda: (a @ matrix @ b, b.sum()), [a], [b]), 2, which).abs().max() < 1e-6
