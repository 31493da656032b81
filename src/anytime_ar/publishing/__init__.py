"""Publishing: a model on the Hugging Face Hub, with a card that tells what was measured of it."""

from __future__ import annotations

from anytime_ar.publishing.push import push

__all__ = ["push"]
