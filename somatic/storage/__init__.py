"""Files at any URL: bytes, Parquet, JSON, and where results lie."""
