"""Where data sets come from: folders, parquet files, the Hub, and the embedded sets."""
