"""What a model is, as its bundle says."""

from __future__ import annotations

import torch

from anytime_ar.bundle.curve import Curve
from anytime_ar.bundle.format import Bundle, summarize_bundle


class BundleProperties:
    """The properties of a model that follow from its bundle."""

    bundle: Bundle
    device: torch.device

    @property
    def code_length(self) -> int:
        """L, the number of codes of a complete sample."""
        return self.bundle.autoencoder.code_length

    @property
    def vocabulary(self) -> int:
        """V, the number of entries that a code chooses from."""
        return self.bundle.autoencoder.vocabulary

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """(C, H, W) of images, (C, T) of sounds."""
        return self.bundle.autoencoder.sample_shape

    @property
    def sample_rate(self) -> int | None:
        """Of sounds, in Hz; None for images."""
        return self.bundle.card.data.sample_rate

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Names of the classes of a conditional model, by label; None: unconditional."""
        return self.bundle.card.data.labels

    @property
    def can_sample(self) -> bool:
        """Whether there is a prior; an autoencoder alone encodes and decodes only."""
        return self.bundle.prior is not None

    @property
    def curve(self) -> Curve | None:
        """Measured quality against codes; None if the bundle was not evaluated."""
        return self.bundle.curve

    def __repr__(self) -> str:
        parts = [
            repr(self.bundle.card.name),
            summarize_bundle(self.bundle),
            f"device={str(self.device)!r}",
        ]
        return f"{type(self).__name__}({', '.join(parts)})"
