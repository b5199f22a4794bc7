"""`somatic plan`."""

from cli.options import (
    Chunk,
    DatasetName,
    Limit,
    NucleiFile,
    Sample,
    SinceVersion,
    To,
    Version,
    check_selection,
    parse_since,
    parse_version,
)

EXAMPLES = (
    "somatic plan minnie65 --version 1300",
    "somatic plan my.toml --limit 100 --to s3://my-bucket/somatic",
)


def plan(
    dataset: DatasetName,
    version: Version = None,
    limit: Limit = None,
    sample: Sample = None,
    nuclei: NucleiFile = None,
    to: To = None,
    chunk: Chunk = 10,
    since: SinceVersion = "auto",
) -> None:
    """Say what an extraction would take: cells, chunks, requests, bytes, memory.

    Nothing is measured and nothing is written.
    """
    check_selection(limit, sample)
    number, since_version = parse_version(version), parse_since(since)

    from rich.console import Console

    from cli.reading import read_dataset
    from cli.showing import show_estimate, show_remarks
    from cli.steps import shown_steps
    from somatic.nucleus_ids import read_nucleus_ids

    described = read_dataset(dataset)
    ids = read_nucleus_ids(nuclei) if nuclei else None
    with shown_steps() as step:
        step("connecting")
        from somatic.extracting.extraction import Extraction
        from somatic.extracting.shards import Selection, plan_extraction
        from somatic.results.base import choose_bases
        from somatic.results.ledger import Ledger
        from somatic.results.sets import result_sets
        from somatic.storage.places import open_results
        from somatic.workers.choice import choose_workers
        from somatic.workers.memory import machine_memory_bytes

        extraction = Extraction.open(described, number, to)
        notes = extraction.source.notes
        show_remarks([extraction.token_note, *notes])
        n_shown = len(notes)
        sets = result_sets(open_results(described, to))
        warnings: list[str] = []
        bases = choose_bases(sets, extraction.version, extraction.config, since_version, warnings.append)
        extraction = extraction.reusing(bases, warnings.append)
        show_remarks(warnings)
        step("asking for the nuclei")
        found = extraction.source.nuclei()
        show_remarks(notes[n_shown:])
        step("checking the segmentation")
        extraction.check(found)
        step("planning")
        ledger = Ledger.load(extraction.store, machine_memory_bytes())
        planned = plan_extraction(extraction, found, Selection(limit, sample, ids, chunk), ledger)
    workers = choose_workers(planned.estimate.worker_memory_bytes)
    show_estimate(Console(), extraction, planned.estimate, workers)
