"""`somatic compare`."""

import math
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from somatic.results.compare import Comparison

EXAMPLES = (
    "somatic compare somatic-results/minnie65/v1300/1a2b3c4d published.csv",
    "somatic compare s3://new/features.parquet s3://old/features.parquet",
)
_WIDTH_FOR_THREE = 110
_RELEASED = (
    "the table that Elabbady et al. released (microns_SomaData_AllCells_v661). Its area-to-volume ratios (1/um) and "
    "nuclear folding area (nm^2) were converted to our units. Its values are normalised, in a way that is not public: "
    "a deviation of up to 10 % is a fault of neither table"
)


def compare(
    results: Annotated[
        str,
        typer.Argument(metavar="RESULTS", help="A folder of results, or a table; path or URL.", show_default=False),
    ],
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE", help="What to compare with: the same, of Parquet, Feather or CSV.", show_default=False
        ),
    ],
) -> None:
    """Compare two tables of features: how far each feature deviates, and on which cells most.

    Deviations are in percent of the value in TABLE. It needs a column nucleus_id, and features by our names and in our
    units; the table that Elabbady et al. released is recognised and converted. docs/using-results.md explains the
    columns that are printed.
    """
    from rich.console import Console

    from somatic.errors import DatasetError
    from somatic.results.compare import compare as compare_tables

    compared = compare_tables(results, table)
    sizes = [compared.n_both + only for only in (compared.n_only_results, compared.n_only_reference)]
    if not compared.n_both:
        raise DatasetError(
            f"no nucleus of {results} is in {table} ({sizes[0]:,} and {sizes[1]:,} nuclei); compare tables of the same "
            "dataset"
        )
    if compared.features.empty:
        raise DatasetError(
            f"{results} and {table} have no feature in common; columns must have the names of the table of features, "
            f"as soma_volume_um"
        )
    console = Console()
    console.print(f"{compared.n_both:,} nuclei in both tables", highlight=False)
    for only, where in ((compared.n_only_results, results), (compared.n_only_reference, table)):
        if only:
            console.print(f"{only:,} only in {where}", highlight=False, soft_wrap=True, markup=False)
    for released, where in ((compared.released_results, results), (compared.released_reference, table)):
        if released:
            console.print(f"{where} is {_RELEASED}", highlight=False, soft_wrap=True, markup=False)
    console.print(_shown(compared, n_worst=3 if console.width >= _WIDTH_FOR_THREE else 1))
    one_sided = compared.features["only_results"] + compared.features["only_reference"]
    if one_sided.any():
        console.print("nuclei with a value in one table only:", highlight=False)
        named = (f"{name} {number:,}" for name, number in one_sided[one_sided > 0].items())
        console.print(f"  {', '.join(named)}", highlight=False)
    for absent, where in ((compared.absent_results, results), (compared.absent_reference, table)):
        if absent:
            console.print(f"not in {where}:", highlight=False, soft_wrap=True, markup=False)
            console.print(f"  {', '.join(absent)}", highlight=False)


def _shown(compared: "Comparison", n_worst: int) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("feature", no_wrap=True)
    for heading in ("nuclei", "median %", "95 %", "largest"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("worst", overflow="fold")
    for name, row in compared.features.iterrows():
        deviations = (_percent(row[column]) for column in ("median_rel", "p95_rel", "max_rel"))
        worst = ", ".join(map(str, row["worst"][:n_worst]))
        table.add_row(str(name), f"{row['n']:,}", *deviations, worst)
    return table


def _percent(share: float) -> str:
    """In percent, short; nothing was compared where it is no number."""
    if math.isnan(share):
        return "-"
    return f"{100 * share:.2g}" if share < 0.995 else f"{100 * share:,.0f}"
