"""Parts of models as users write them, which settings and bundles name by import path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from anytime_ar import CausalPrior
from anytime_ar.prior.kv_cache import TensorCache


class Encoder(nn.Sequential):
    """Grey images of 8 x 8 pixels to code vectors [B, L, D]."""

    def __init__(self, code_length: int, code_width: int) -> None:
        super().__init__(
            nn.Flatten(),
            nn.Linear(64, code_length * code_width),
            nn.Unflatten(1, (code_length, code_width)),
        )


class Decoder(nn.Sequential):
    def __init__(self, code_length: int, code_width: int) -> None:
        super().__init__(
            nn.Flatten(), nn.Linear(code_length * code_width, 64), nn.Unflatten(1, (1, 8, 8))
        )


class GRUPrior(CausalPrior):
    """A GRU; its cache is the state of each row. It states no dtype and no device."""

    def __init__(self, code_length: int, vocabulary: int, label_count: int = 0) -> None:
        super().__init__(code_length, vocabulary, label_count)
        self.inputs = nn.Embedding(vocabulary + label_count + 1, 8)
        self.cell = nn.GRUCell(8, 8)
        self.out = nn.Linear(8, vocabulary)

    def new_cache(self, capacity: int) -> TensorCache:
        return TensorCache(capacity, [(8,)], device=self.device)

    def next_logits(
        self, inputs: Tensor, positions: Sequence[int], cache: TensorCache, rows: slice
    ) -> Tensor:
        state, logits = cache.tensors[0][rows].clone(), []
        starts = torch.tensor(positions)[:, None]
        for step in range(inputs.shape[1]):
            is_label = starts + step == 0
            token = inputs[:, step] + torch.where(is_label[:, 0], self.vocabulary, 0)
            state = self.cell(
                self.inputs(token), torch.where(is_label, torch.zeros(len(token), 8), state)
            )
            logits.append(self.out(state))
        cache.tensors[0][rows] = state.detach()
        return torch.stack(logits, dim=1)
