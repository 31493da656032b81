"""Decoders of the prior: PyTorch operations, and the native kernel."""
