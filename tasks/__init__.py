"""Prefect tasks: names, retries and artifacts round `somatic`."""
