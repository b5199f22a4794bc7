"""What a morphologist means: the features without the known faults of the published ones (docs/definitions.md)."""

from somatic.corrected.folds import fold_columns, fold_depth_nm
from somatic.corrected.mask import repair
from somatic.corrected.nucleus import measure_nucleus
from somatic.corrected.soma import soma_surface
from somatic.corrected.synapses import on_soma

__all__ = ["fold_columns", "fold_depth_nm", "measure_nucleus", "on_soma", "repair", "soma_surface"]
