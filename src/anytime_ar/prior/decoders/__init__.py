"""Decoders of the prior: the decode path in PyTorch's operations, and in our own kernel."""
