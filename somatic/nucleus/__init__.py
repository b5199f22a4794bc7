"""Nuclei: their meshes, from the files of a layer to one closed body in its place."""

from somatic.nucleus.layer import NucleusLayer
from somatic.nucleus.placing import Nucleus, closed, place_nucleus

__all__ = ["Nucleus", "NucleusLayer", "closed", "place_nucleus"]
