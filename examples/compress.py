"""Compress images to a chosen number of bits: python examples/compress.py."""

import math

import anytime_ar as aar

model = aar.load("mnist")
images = model.sample(32, seed=1)
codes = model.encode(images)
bits_per_code = math.log2(model.vocabulary)
for k in (2, 4, 8, 16):
    error = (model.decode(codes[:, :k]) - images).square().mean()
    print(f"{k * bits_per_code:>4.0f} bits an image: squared error {float(error):.4f}")
