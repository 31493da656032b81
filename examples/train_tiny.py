"""Train on 8x8 digits for a moment and draw from the result: python examples/train_tiny.py."""

import anytime_ar as aar

model = aar.train(
    {
        "name": "tiny",
        "data": {"name": "digits"},
        "autoencoder": {"code_length": 8, "code_width": 4, "quantizer": {"vocabulary": 16}},
        "autoencoder_training": {"steps": 60, "batch_size": 32},
        "prior": {"layers": 1, "width": 32, "heads": 2},
        "prior_training": {"steps": 60, "batch_size": 32},
    },
    device="cpu",
    show_progress=False,
)
print(model)
print(model.sample(4, label="3", seed=0).shape)
