"""Ways to extract with other versions of the features, and to look at what was reused."""

from pathlib import Path

import pytest
from extracting import Results, changed

from sandbox.lab import write_file_dataset
from sandbox.phantom.scene import Scene
from somatic.dataset import load_dataset
from somatic.storage.places import config_hash, configuration

RADIUS_UM = 2.0


def written(scene: Scene, version: int, path: Path, definitions: str = "published") -> Path:
    """A dataset file of a version of a scene, in small cutouts."""
    text = f'mip = 0\ncutout_radius_um = {RADIUS_UM}\ndefinitions = "{definitions}"\n'
    return changed(write_file_dataset(scene, version, path), ("mip = 0\n", text))


def versions(patch: pytest.MonkeyPatch, soma: int = 3, nucleus: int = 3, synapses: int = 3) -> None:
    """Have the groups of features these versions."""
    for name, version in (("SOMA", soma), ("NUCLEUS", nucleus), ("SYNAPSE", synapses)):
        patch.setattr(f"somatic.features.{name}_VERSION", version)


def results_of(dataset: Path, root: Path, version: int = 1) -> Results:
    """Results of the present versions of the features."""
    return Results(str(root), version, config_hash(configuration(load_dataset(dataset), "flat")))


def sources(results: Results) -> dict[str, dict[str, int]]:
    """How many somata, nuclei and synapse counts come from where."""
    provenance = results.provenance
    return {part: provenance[f"{part}_source"].value_counts().to_dict() for part in ("soma", "nucleus", "synapse")}
