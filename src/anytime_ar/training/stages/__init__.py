"""Stages of training: the autoencoder, adversarial fine-tuning of its decoder, and the prior."""
