"""Metrics: reconstruction, distances between distributions, memorisation, and the PCA baseline."""
