"""Figures 1 and 2, as the page and a run's pictures draw them."""

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from pcgan_lightning.report import draw_condition_numbers, draw_singular_values


def test_figures_hold_what_was_measured():
    """All values, the smallest darkest, 'before' dotted."""
    iterations, figure = np.arange(0, 30, 10), Figure()
    axes = figure.subplots(1, 3)
    lines = {"smallest 1": (iterations, np.array([0.1, 0.2, np.nan])), "smallest 2": (iterations, np.full(3, 0.5))}
    draw_singular_values(axes, {"first": lines, "last": lines}, highest=1.2)
    assert [axis.get_title(loc="left") for axis in axes[:2]] == ["first", "last"]
    assert figure.axes == list(axes[:2]), "an axis without a layer is removed"
    second, first = axes[0].lines
    assert first.get_xydata().tolist() == [[0, 0.1], [10, 0.2]]
    assert second.get_xydata().tolist() == [[0, 0.5], [10, 0.5], [20, 0.5]]
    assert sum(to_rgb(first.get_color())) < sum(to_rgb(second.get_color()))
    axis = Figure().subplots()
    stages = {"before": (iterations, np.array([9.0, 8.0, 7.0])), "after": lines["smallest 2"]}
    draw_condition_numbers(axis, {"first": stages})
    before, after = axis.lines
    assert before.get_ydata().tolist() == [9, 8, 7]
    assert (before.is_dashed(), after.is_dashed(), after.get_label()) == (True, False, "first")
    assert axis.get_ylim()[1] > 9
