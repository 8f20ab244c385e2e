"""The rolling export: an account's outcomes, reports and events as Parquet files, each row in one of them."""
