"""`somatic deploy`."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import typer

from cli.prefect_settings import load_prefect, prepare_prefect
from somatic.urls import results_fault

EXAMPLES = (
    "somatic deploy --image lab.example/somatic:0.1.0 --to s3://my-bucket/somatic",
    "somatic deploy --image lab.example/somatic:0.1.1",
    'somatic deploy --job-variable \'node_selector={"pool": "spot"}\' --shards 40',
    "somatic deploy --type process --to /data/somatic",
)
NOTE = (
    "Again and again: what is as it should be is left alone, and what was set before stays when it is not said again. "
    "docs/cluster.md goes from an empty cluster to the first run."
)

_WOULD = {"created": "would create", "changed": "would change", "left": "would leave"}
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_PART = r"[a-z0-9]+(?:(?:\.|_{1,2}|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    rf"(?:[A-Za-z0-9.-]+(?::[0-9]+)?/)?{_PART}(?:/{_PART})*(?P<version>(?::\w[\w.-]{{0,127}})?(?:@sha256:[0-9a-f]{{64}})?)"
)


def deploy(
    pool: Annotated[str, typer.Option(metavar="NAME", help="Work pool.")] = "somatic",
    pool_type: Annotated[
        Literal["kubernetes", "process"],
        typer.Option("--type", help="Jobs of a cluster, or processes of the machine on which a worker runs."),
    ] = "kubernetes",
    image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Image of the jobs, with its tag.", show_default="as before")
    ] = None,
    namespace: Annotated[
        str | None,
        typer.Option(metavar="NS", help="Namespace of the jobs.", show_default="as before, else somatic"),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Where results go: s3://bucket/folder, any other fsspec URL, with --type process also a folder.",
            show_default="as before",
        ),
    ] = None,
    shards: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="So many shards at most run at once.",
            show_default="as before, else 20, and 1 with --type process",
        ),
    ] = None,
    job_variable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=JSON",
            help="Set a variable of all jobs, such as node_selector or tolerations; without a value, as at first.",
            show_default="as before",
        ),
    ] = None,
    notify: Annotated[
        str | None,
        typer.Option(
            envvar="SOMATIC_NOTIFY_URL",
            metavar="URL",
            help="Webhook (Slack, Mattermost, Teams) that is told of failed extractions.",
            show_default="as before, else nobody",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", metavar="", help="Say what would be done, and change nothing.")
    ] = False,
) -> None:
    """Bring the deployments, and all that they need, to the Prefect server that PREFECT_API_URL names.

    Work pool, base job template, queues, deployments, limits on requests to CAVE, automations, blocks.
    """
    if pool_type == "process" and (image or namespace):
        raise typer.BadParameter("processes have neither image nor namespace", param_hint="--type")
    variables = _parse_job_variables(job_variable or [])
    if image is not None:
        variables["image"] = _check_image(image)
    if namespace is not None:
        variables["namespace"] = _check_namespace(namespace)
    if to is not None and (fault := results_fault(to)):
        raise typer.BadParameter(f"{to!r}: {fault}", param_hint="--to")
    if to is not None and pool_type == "process" and not urlsplit(to).scheme:
        to = str(Path(to).expanduser().absolute())
    if notify is not None and not urlsplit(notify).netloc:
        # It may be a secret, so it is not repeated.
        raise typer.BadParameter("this is no URL", param_hint="--notify")

    prepare_prefect()
    load_prefect()

    from prefect.settings import PREFECT_API_URL

    from cli.prefect_server import check_version, server
    from somatic.errors import PermanentError

    if not PREFECT_API_URL.value():
        raise PermanentError(
            "no Prefect server is set: start one with `prefect server start` and say where it is, for example "
            "export PREFECT_API_URL=http://127.0.0.1:4200/api"
        )
    with server() as client:
        check_version(client, "somatic deploy")

        from deployments.apply import apply

        for change in apply(
            client,
            pool=pool,
            pool_type=pool_type,
            job_variables=variables,
            results=to,
            shards=shards,
            webhook=notify,
            dry_run=dry_run,
        ):
            did = _WOULD[change.did] if dry_run else change.did
            details = f" ({', '.join(change.details)})" if change.details else ""
            typer.echo(f"{did:<13}{change.what}{details}")
    if not dry_run:
        typer.echo(f"\nA worker:  prefect worker start --pool {pool} --type {pool_type}")
        typer.echo("A run:     prefect deployment run extract/minnie65 --watch")


def _parse_job_variables(texts: list[str]) -> dict[str, Any]:
    values = {}
    for text in texts:
        name, equals, value = text.partition("=")
        try:
            if not equals:
                raise ValueError
            values[name.strip()] = json.loads(value) if value.strip() else None
        except ValueError:
            raise typer.BadParameter(
                f"{text!r} is not NAME=JSON; a text needs its quotes, for example 'priority_class_name=\"low\"'",
                param_hint="--job-variable",
            ) from None
    return values


def _check_image(image: str) -> str:
    found = _IMAGE.fullmatch(image)
    if not found:
        raise typer.BadParameter(
            f"{image!r} is not the name of an image, such as registry.example.org/somatic:0.1.0", param_hint="--image"
        )
    if not found["version"]:
        raise typer.BadParameter(f"{image!r} says no version: add :TAG or @sha256:...", param_hint="--image")
    return image


def _check_namespace(namespace: str) -> str:
    if not _NAME.fullmatch(namespace):
        raise typer.BadParameter(
            f"{namespace!r} is no name of a namespace: small letters, digits and - between them, 63 at most",
            param_hint="--namespace",
        )
    return namespace
