"""Pictures and tables of masks, activation maps and scores."""
from .images import IGNORE_COLOUR, cam_heatmap, colorize_mask, overlay
from .plots import plot_lines, plot_matrix
from .report import write_report
from .tables import format_table

__all__ = ['IGNORE_COLOUR', 'cam_heatmap', 'colorize_mask', 'format_table', 'overlay',
           'plot_lines', 'plot_matrix', 'write_report']
