"""The HTTP API, version 1, and the process that serves it."""
