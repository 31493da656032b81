"""Publishing: upload a model to the Hugging Face Hub, with a card of its measurements."""

from __future__ import annotations

from anytime_ar.publishing.push import push

__all__ = ["push"]
