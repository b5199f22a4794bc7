"""The features as published (Elabbady et al., Nature 2025, doi 10.1038/s41586-024-07765-7)."""

from somatic.published.folds import fold_columns, fold_depth_nm
from somatic.published.mask import repair
from somatic.published.nucleus import measure_nucleus
from somatic.published.soma import soma_surface
from somatic.published.synapses import on_soma

__all__ = ["fold_columns", "fold_depth_nm", "measure_nucleus", "on_soma", "repair", "soma_surface"]
