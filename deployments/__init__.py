"""What somatic needs on a Prefect server, and what brings it there; the files in these folders say what it is."""
