"""Loading datasets from texts, and a CAVE server for those that ask one."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from sandbox.cave.server import CaveServer, CaveTable, CaveView, Datastack, MaterializedVersion
from somatic.dataset import Dataset, load_dataset
from somatic.errors import DatasetError

ROOT = 864691135012345678


def load(folder: Path, text: str, name: str = "volume.toml") -> Dataset:
    """Load a dataset from a text."""
    (folder / name).write_text(text)
    return load_dataset(folder / name)


def refusal(folder: Path, text: str, name: str = "volume.toml") -> str:
    """The one line with which a file is refused; it begins with the file."""
    with pytest.raises(DatasetError) as caught:
        load(folder, text, name)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{folder / name}: ")
    return message.removeprefix(f"{folder / name}: ")


def the_datastack(segmentation: str) -> Datastack:
    """A datastack named like the public one, with one nucleus, two synapses and two versions."""
    nucleus = pd.DataFrame({"id": [5], "pt_root_id": pd.array([ROOT], dtype="Int64")})
    synapses = pd.DataFrame({"id": [1, 2], "pre_pt_root_id": [ROOT + 1, ROOT], "post_pt_root_id": [ROOT, ROOT]})
    for number, axis in enumerate("xyz", 1):
        nucleus[f"pt_position_{axis}"] = 10 * number
        nucleus[f"pt_position_lookup_{axis}"] = 11 * number
        synapses[f"ctr_pt_position_{axis}"] = 10 * number
    versions = [
        MaterializedVersion(
            number,
            datetime(2024, 1, 21, 20, 17, 9, 199182),
            tables={"synapses_of_it": CaveTable(synapses, (4.0, 4.0, 40.0), "synapse")},
            views={"nucleus_detection_lookup_v1": CaveView(nucleus, (4.0, 4.0, 40.0))},
        )
        for number in (661, 943)
    ]
    return Datastack("minnie65_public", "minnie", segmentation, versions, synapse_table="synapses_of_it")


@contextmanager
def served(dataset: Dataset, segmentation: str) -> Iterator[Dataset]:
    """The dataset, at a CAVE server on this machine whose datastack names a segmentation."""
    assert dataset.cave is not None
    with CaveServer(the_datastack(segmentation), token="abc") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("CAVE_TOKEN", "abc")
        yield dataset.model_copy(update={"cave": dataset.cave.model_copy(update={"server": server.url})})
