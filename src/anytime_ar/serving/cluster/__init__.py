"""Serve models from several replicas behind one gateway, and survive the loss of a replica.

Equal seeds give equal samples on every replica, so another replica can repeat a lost sample.
"""
