"""`somatic plan`."""

from cli.options import Chunk, DatasetName, Limit, NucleiFile, Sample, To, Version, parse_version

EXAMPLES = "[bold]Examples[/bold]\n\nsomatic plan minnie65 --version 1300\n\nsomatic plan my.toml --limit 100 --to s3://my-bucket/somatic"


def plan(
    dataset: DatasetName,
    version: Version = None,
    limit: Limit = None,
    sample: Sample = None,
    nuclei: NucleiFile = None,
    to: To = None,
    chunk: Chunk = 10,
) -> None:
    """Say what an extraction would take, and measure nothing."""
    from rich.console import Console

    from cli.showing import estimate_table
    from somatic.check import check_segmentation
    from somatic.dataset import load_dataset
    from somatic.extraction import Extraction
    from somatic.ledger import Ledger
    from somatic.memory import machine_memory_bytes
    from somatic.nucleus_ids import read_nucleus_ids
    from somatic.planning import Selection, plan_extraction

    extraction = Extraction.open(load_dataset(dataset), parse_version(version) if version else None, to)
    found = extraction.source.nuclei()
    extraction.check_layers()
    check_segmentation(found, extraction.segmentation, extraction.title)
    selection = Selection(limit, sample, read_nucleus_ids(nuclei) if nuclei else None, chunk)
    ledger = Ledger.load(extraction.store, machine_memory_bytes())
    planned = plan_extraction(extraction, found, selection, ledger)
    Console().print(estimate_table(extraction, planned.estimate))
