"""Train on 8x8 digits for a moment and draw from the result: python examples/train_tiny.py."""

import tempfile
from pathlib import Path

import anytime_ar as aar
from anytime_ar.training import TrainConfig

config = TrainConfig.parse(
    {
        "name": "tiny",
        "data": {"name": "digits"},
        "autoencoder": {"code_length": 8, "code_width": 4, "quantizer": {"vocabulary": 16}},
        "autoencoder_training": {"steps": 60, "batch_size": 32},
        "prior": {"layers": 1, "width": 32, "heads": 2},
        "prior_training": {"steps": 60, "batch_size": 32},
    },
    origin="this example",
)
with tempfile.TemporaryDirectory() as folder:
    aar.train(config, Path(folder) / "run", device="cpu", show_progress=False)
    model = aar.load(Path(folder) / "run" / "bundle")
print(model)
print(model.sample(4, label="3", seed=0).shape)
