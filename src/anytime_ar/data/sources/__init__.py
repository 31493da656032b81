"""Open data sets from folders, parquet files and the Hub, and the embedded sets."""
