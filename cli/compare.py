"""`somatic compare`."""

from typing import Annotated

import typer

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "somatic compare somatic-results/minnie65/v1300/1a2b3c4d published.csv\n\n"
    "somatic compare s3://bucket/new/features.parquet s3://bucket/old/features.parquet"
)
_WORST = 3


def compare(
    results: Annotated[str, typer.Argument(metavar="RESULTS", help="A folder of results, or a table; path or URL.")],
    table: Annotated[str, typer.Argument(metavar="TABLE", help="The table to compare with: Parquet, Feather or CSV.")],
) -> None:
    """Compare two tables of features: how far each feature deviates, and on which cells most."""
    import math

    from rich.console import Console
    from rich.table import Table

    from somatic.compare import compare as compare_tables

    def shown(share: float) -> str:
        return "-" if math.isnan(share) else f"{100 * share:.3g} %"

    compared = compare_tables(results, table)
    console = Console()
    console.print(
        f"{compared.n_both:,} nuclei in both, {compared.n_only_results:,} only in {results}, "
        f"{compared.n_only_reference:,} only in {table}",
        highlight=False,
    )
    features = Table()
    for heading in ("feature", "compared", "null in one", "median", "95 %", "largest", "worst nuclei"):
        features.add_column(heading, justify="left" if heading in ("feature", "worst nuclei") else "right")
    for name, row in compared.features.iterrows():
        worst = ", ".join(map(str, row["worst"][:_WORST]))
        one_sided = row["only_results"] + row["only_reference"]
        deviations = (shown(row[column]) for column in ("median_rel", "p95_rel", "max_rel"))
        features.add_row(str(name), f"{row['n']:,}", f"{one_sided:,}", *deviations, worst)
    console.print(features)
    for absent, where in ((compared.absent_results, results), (compared.absent_reference, table)):
        if absent:
            console.print(f"not in {where}: {', '.join(absent)}", highlight=False)
