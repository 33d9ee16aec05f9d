"""What keeps the dual variables in their box at the least price: a sigmoid or a projection; of dualing.py."""

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from pcgan_lightning.games import InnerProblem, linear_problem


class Counting:
    """U with a count of its products."""

    def __init__(self, rows: Any) -> None:
        self.rows, self.count = rows, 0

    def vjp(self, vector: Tensor, create_graph: bool = False) -> Tensor:
        self.count += 1
        return self.rows.vjp(vector, create_graph)

    def jvp(self, vector: Tensor) -> Tensor:
        self.count += 1
        return self.rows.jvp(vector)


def projected(problem: InnerProblem, gap: float, most: int) -> None:
    """Climb by gradient steps in lambda, in units of p, projected to the box, with a step that adapts."""
    dual, rate = 0.5 * torch.ones_like(problem.weights), 1.0
    point = problem.at(dual.logit())
    while problem.rows.count < most:
        margins = problem.margins(point.step)
        primal = problem.primal(point.step, margins)
        if primal - point.value <= gap * primal:
            return
        gradient = -point.logits - margins
        while True:
            moved = (dual + rate * gradient).clamp(1e-12, 1 - 1e-12)
            found = problem.at(moved.logit())
            if found.value > point.value or rate < 1e-12:
                break
            rate /= 2
        dual, point, rate = moved, found, 1.5 * rate


def box(features: Callable[[int], tuple[Tensor, Tensor]]) -> list[dict[str, Any]]:
    """Return the products that each way takes, medians over three problems of features that a seed decides."""
    ways: dict[str, Callable[[InnerProblem, float], object]] = {
        "projection, gradient": lambda problem, gap: projected(problem, gap, 2000),
        "sigmoid, gradient": lambda problem, gap: problem.solve(iterations=660, products=0, tolerance=gap),
        "sigmoid, Newton of 3 products": lambda problem, gap: problem.solve(products=3, tolerance=gap),
        "sigmoid, Newton": lambda problem, gap: problem.solve(tolerance=gap),
    }
    rows = []
    for decay in (1e-1, 1e-2):
        for name, solve in ways.items():
            for gap in (1e-3, 1e-8):
                counts = []
                for seed in range(3):
                    problem = linear_problem(*features(seed), decay)
                    object.__setattr__(problem, "rows", Counting(problem.rows))
                    solve(problem, gap)
                    counts.append(problem.rows.count)
                rows.append({"way": name, "decay": decay, "gap": gap, "products": statistics.median(counts)})
                print(rows[-1], flush=True)
    return rows
