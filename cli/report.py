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
    from somatic.report.overview import put_report
    from somatic.report.results import read_results
    from somatic.results.flags import put_flags

    store = open_result_set(results)
    with shown_steps() as step:
        step("reading the tables")
        found = read_results(store)
        put_flags(store, found.features)
        step("drawing")
        url = put_report(store, found)
    typer.echo(url)
