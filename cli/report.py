"""`somatic report`."""

import typer

from cli.options import Results

EXAMPLES = (
    "somatic report somatic-results/minnie65/v1300/1a2b3c4d",
    "somatic report s3://my-bucket/somatic/minnie65/v1300/1a2b3c4d",
)
NOTE = "An extraction writes the report itself; this makes it again, as for results of an earlier somatic."


def report(results: Results) -> None:
    """Write report.html beside a table of features: one page, for any browser, that needs no network.

    Beside it goes flags.parquet, which says which cells to look at before their numbers are used.
    """
    from cli.reading import open_result_set
    from cli.steps import shown_steps
    from somatic.quality import put_flags
    from somatic.report.overview import REPORT, make_report
    from somatic.report.results import read_results, stored_meshes

    store = open_result_set(results)
    with shown_steps() as step:
        step("reading the tables")
        found = read_results(store)
        put_flags(store, found.features)
        step("drawing")
        store.put(REPORT, make_report(found, stored_meshes(found)).encode())
    typer.echo(store.url_of(REPORT))
