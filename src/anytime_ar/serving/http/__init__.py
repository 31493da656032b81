"""The HTTP API, version 1, and the server process."""
