"""`pcgan report`: one HTML page that compares runs. Reads run folders; needs neither Lightning nor a network."""

from pcgan_lightning.report.page import report

__all__ = ["report"]
