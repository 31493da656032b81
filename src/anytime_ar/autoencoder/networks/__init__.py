"""Encoder and decoder networks for images and for audio."""
