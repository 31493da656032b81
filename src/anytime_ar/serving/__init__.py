"""Serving: deadline-aware continuous batching behind an HTTP API, on one machine or many."""
