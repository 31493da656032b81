"""Properties of a model that its bundle defines."""

from __future__ import annotations

import torch

from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import Bundle, summarize_bundle


class BundleProperties:
    """Mixin with the properties of a model that follow from its bundle."""

    bundle: Bundle
    """Networks, card and curve of the model."""
    device: torch.device
    """Device on which the networks are."""

    @property
    def code_length(self) -> int:
        """Number of codes of a whole sample, L."""
        return self.bundle.autoencoder.code_length

    @property
    def vocabulary(self) -> int:
        """Number of values that a code can take, V."""
        return self.bundle.autoencoder.vocabulary

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W) of images, (C, T) of audio."""
        return self.bundle.autoencoder.sample_shape

    @property
    def sample_rate(self) -> int | None:
        """Sampling rate of audio in Hz; None for images."""
        return self.bundle.card.data.sample_rate

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes, by label; None for an unconditional model."""
        return self.bundle.card.data.labels

    @property
    def can_sample(self) -> bool:
        """Whether there is a prior; an autoencoder alone only encodes and decodes."""
        return self.bundle.prior is not None

    @property
    def curve(self) -> Curve | None:
        """Measured quality against the number of codes; None if the bundle was not evaluated."""
        return self.bundle.curve

    def __repr__(self) -> str:
        """Return name, sizes and device of the model."""
        parts = [
            repr(self.bundle.card.name),
            summarize_bundle(self.bundle),
            f"device={str(self.device)!r}",
        ]
        return f"{type(self).__name__}({', '.join(parts)})"
