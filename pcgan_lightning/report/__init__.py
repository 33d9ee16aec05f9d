"""`pcgan report`: one HTML page that compares runs. Reads run folders; needs neither Lightning nor a network."""

from pcgan_lightning.report.drawing import draw_condition_numbers, draw_line, draw_singular_values, layer_colors
from pcgan_lightning.report.page import report

__all__ = ["draw_condition_numbers", "draw_line", "draw_singular_values", "layer_colors", "report"]
