"""Anytime generation: autoregressive models over ordered codes."""
