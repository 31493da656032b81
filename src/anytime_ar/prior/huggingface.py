"""A prior that is a causal language model of Hugging Face's transformers."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from anytime_ar.codes import Vocabulary, largest_vocabulary, vocabulary_sizes
from anytime_ar.errors import InputError, require_extras
from anytime_ar.plugins import (
    build_transformers_model,
    register,
    transformers_config,
    transformers_weights,
)
from anytime_ar.prior.causal import CausalPrior
from anytime_ar.prior.kv_cache import TensorCache
from anytime_ar.runtime.torch_modes import default_torch_modes

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel
    from transformers.cache_utils import CacheLayerMixin

TokenLayout = Literal["shared", "per_position"]
"""How codes become tokens. `shared`: code j is token j at every position. `per_position`: code j at
position i is token i * V + j, or follows the tokens of all positions before if their vocabularies
differ. The labels follow the codes; the last one means "no label"."""


@register("huggingface_prior")
class HuggingFacePrior(CausalPrior):
    """A causal language model of transformers as a prior over codes.

    A sequence is a label token and then a token for each code. Keys and values are kept for each
    row, so that rows at different positions are computed in one call. A row gets the logits that it
    gets alone up to rounding.

    Args:
        model: causal language model with full attention and a vocabulary for all tokens, such as
            `LlamaForCausalLM` or `GPT2LMHeadModel`.
        code_length: L.
        vocabulary: V, one number for all positions, or one for each.
        label_count: number of classes; 0 for an unconditional prior.
        tokens: see `TokenLayout`.
        check: compare results with a cache and without, on a few codes. The weights have to be
            those of the model.

    Raises:
        InputError: vocabulary or context of the model are too small, or its results with a cache
            differ from those without.
        MissingExtraError: transformers is not installed.
    """

    _first_token: Tensor
    """Token of code 0 at each position if tokens are per position, int64 [L]."""

    @default_torch_modes(grad=True)
    def __init__(
        self,
        model: PreTrainedModel,
        code_length: int,
        vocabulary: Vocabulary,
        label_count: int = 0,
        *,
        tokens: TokenLayout = "shared",
        check: bool = True,
    ) -> None:
        """Check the sizes of the model, and its cache."""
        require_extras("a Hugging Face prior", "hf")
        super().__init__(code_length, vocabulary, label_count)
        self.model, self.tokens = model.eval(), tokens
        config = model.config.get_text_config()
        self._sizes = vocabulary_sizes(self.vocabulary, code_length)
        self._first_label = _token_count(self.vocabulary, code_length, tokens)
        self._first = [0, *accumulate(self._sizes[:-1])]  # token of each position
        self.register_buffer("_first_token", torch.tensor(self._first), persistent=False)
        needed = self._first_label + label_count + 1
        if config.vocab_size < needed:
            raise InputError(
                f"{type(model).__name__} has {config.vocab_size} tokens, and {needed} are needed: "
                f"{self._first_label} for codes, {label_count} for labels and 1 for no label; "
                "build it with a larger vocab_size"
            )
        context = getattr(config, "max_position_embeddings", None)
        if context is not None and context < code_length:
            raise InputError(
                f"{type(model).__name__} has a context of {context} tokens, and a sample has "
                f"{code_length} codes; build it with max_position_embeddings={code_length} or more"
            )
        heads = getattr(config, "num_attention_heads", None)
        if heads is None:
            raise InputError(
                f"{type(model).__name__} cannot be a prior: it has no attention; choose a causal "
                "model with full attention, or write a CausalPrior of your own"
            )
        self._shape = (
            getattr(config, "num_key_value_heads", None) or heads,
            code_length,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
        )
        self._layers = config.num_hidden_layers
        named = inspect.signature(model.forward).parameters
        self.cache_argument = "cache" if "cache" in named else "past_key_values"
        """Name by which the model takes its cache, which depends on the release of transformers."""
        if check:
            self._check_cache()

    def get_config(self) -> dict[str, Any]:
        """Return sizes, tokens and configuration of the model, for `from_config`."""
        return {
            "model": transformers_config(self.model),
            "code_length": self.code_length,
            "vocabulary": self.vocabulary
            if isinstance(self.vocabulary, int)
            else list(self.vocabulary),
            "label_count": self.label_count,
            "tokens": self.tokens,
        }

    def weights_of_checkpoint(self, stored: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the weights from files that `save_pretrained` of the model wrote."""
        weights = transformers_weights(self.model, stored)
        return {f"model.{name}": weight for name, weight in weights.items()}

    @classmethod
    def complete_config(
        cls, config: dict[str, Any], code_length: int, vocabulary: Vocabulary, label_count: int
    ) -> dict[str, Any]:
        """Return settings with the sizes of the codes, and tokens and context of the model."""
        whole = super().complete_config(config, code_length, vocabulary, label_count)
        given = config.get("model", {})
        if not isinstance(given, dict):
            raise InputError(
                f"prior.config.model is {given!r}; give the configuration of a causal model, such "
                "as {model_type: llama, hidden_size: 64}"
            )
        tokens = config.get("tokens", "shared")
        count = _token_count(vocabulary, code_length, tokens) + label_count + 1
        ends = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
        sizes = {"vocab_size": count, "max_position_embeddings": code_length, **ends}
        return whole | {"tokens": tokens, "model": sizes | given}

    @classmethod
    @default_torch_modes(grad=True)
    def from_config(cls, config: dict[str, Any]) -> HuggingFacePrior:
        """Build a prior from `get_config`, with random weights.

        Raises:
            InputError: the configuration is of no causal model of the installed transformers.
        """
        require_extras("a Hugging Face prior", "hf")
        model = build_transformers_model(
            "AutoModelForCausalLM", config["model"], "the prior is no causal model"
        )
        sizes = config["code_length"], config["vocabulary"], config["label_count"]
        return cls(model, *sizes, tokens=config["tokens"], check=False)

    def new_cache(self, capacity: int) -> TensorCache:
        """Return the keys and values of every layer, for `capacity` rows."""
        return TensorCache(
            capacity, [self._shape] * 2 * self._layers, dtype=self.model.dtype, device=self.device
        )

    def next_logits(
        self, inputs: Tensor, positions: Sequence[int], cache: TensorCache, rows: slice
    ) -> Tensor:
        """Compute the logits after each input; see `CausalPrior.next_logits`."""
        count = inputs.shape[1]
        first, last = min(positions), max(positions)
        if first == last:
            at = torch.arange(first, first + count, device=inputs.device)[None]  # [1, T]
        else:
            starts = torch.tensor(positions, device=inputs.device)
            at = starts[:, None] + torch.arange(count, device=inputs.device)  # [n, T]
        mask = None
        if first != last or (first > 0 and count > 1):
            seen = torch.arange(last + count, device=inputs.device) <= at[..., None]
            mask = seen.expand(len(inputs), -1, -1)[:, None]  # [n, 1, T, positions]
        hidden = self.model(
            input_ids=self._tokens(inputs, at, starts=first == 0),
            attention_mask=mask,
            position_ids=at.expand(len(inputs), -1),
            use_cache=True,
            **{self.cache_argument: _cache_view(cache, rows, at, last + count)},
        )
        return self._code_logits(hidden.logits, at)

    def forward(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """Compute the logits of every code given those before it, without a cache.

        See `CausalPrior.forward`. Training and `nll` call it.
        """
        inputs = self.inputs_of(codes, labels)
        at = torch.arange(inputs.shape[1], device=inputs.device)[None]
        hidden = self.model(
            input_ids=self._tokens(inputs, at, starts=True),
            position_ids=at.expand(len(inputs), -1),
            use_cache=False,
        )
        return self.mask_logits(self._code_logits(hidden.logits, at))

    def _tokens(self, inputs: Tensor, at: Tensor, *, starts: bool) -> Tensor:
        """Return the tokens of inputs.

        Args:
            inputs: int64 [n, T].
            at: positions of the inputs, int64 [1 or n, T].
            starts: whether any of them is 0, where the input is a label.
        """
        tokens = inputs
        if self.tokens == "per_position":
            tokens = inputs + self._first_token[at - 1]
        return torch.where(at == 0, self._first_label + inputs, tokens) if starts else tokens

    def _code_logits(self, logits: Tensor, at: Tensor) -> Tensor:
        """Return the logits of codes among those of tokens: [n, T, tokens] -> [n, T, V].

        Args:
            logits: float [n, T, tokens].
            at: positions of the logits, int64 [1 or n, T].
        """
        largest = largest_vocabulary(self.vocabulary)
        if self.tokens == "shared":
            return logits[..., :largest]
        if len(at) == 1:
            own = [
                logits[:, i, self._first[p] : self._first[p] + self._sizes[p]]
                for i, p in enumerate(at[0].tolist())
            ]
            if not isinstance(self.vocabulary, int):
                own = [F.pad(part, (0, largest - part.shape[1])) for part in own]
            return torch.stack(own, dim=1)
        # If vocabularies differ, the logits of other tokens follow those of a position's own.
        columns = self._first_token[at][..., None] + torch.arange(largest, device=at.device)
        return logits.gather(2, columns.clamp(max=logits.shape[2] - 1))

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Raise an error if the model does not compute with a cache what it computes without."""
        length = min(4, self.code_length)
        codes = torch.arange(2 * length, device=self.device).view(2, length) % min(self._sizes)
        labels = torch.full((2, 1), self.no_label, device=self.device)
        inputs = torch.cat([labels, codes], dim=1)[:, :length]
        whole = self(codes)
        try:
            cache = self.new_cache(2)
            steps = [
                self.next_logits(inputs[:, i : i + 1], [i, i], cache, slice(0, 2))
                for i in range(length)
            ]
            possible = whole != -torch.inf
            differ = (
                (torch.cat(steps, dim=1)[possible].float() - whole[possible].float()).abs().max()
            )
        except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{type(self.model).__name__} cannot be a prior: it does not run with keys and "
                f"values of each row ({error}); choose a causal model with full attention"
            ) from error
        if not differ <= 0.02 * whole[possible].float().abs().max().clamp(min=1):
            raise InputError(
                f"{type(self.model).__name__} cannot be a prior: its logits with and without a "
                f"cache differ by {float(differ):.3g}; choose a causal model with full attention"
            )


def _token_count(vocabulary: Vocabulary, code_length: int, tokens: TokenLayout) -> int:
    """Return the number of tokens for codes."""
    sizes = vocabulary_sizes(vocabulary, code_length)
    return sum(sizes) if tokens == "per_position" else max(sizes)


def _cache_view(cache: TensorCache, rows: slice, at: Tensor, length: int) -> Cache:
    """Return a cache of transformers that reads and writes some rows at their own positions.

    Args:
        cache: keys and values of all rows, two tensors for each layer.
        rows: places of the n rows.
        at: positions to write, int64 [1 or n, T].
        length: number of positions that attention reads.
    """
    from transformers.cache_utils import Cache

    written = length - at.shape[1] if len(at) == 1 else at[:, None, :, None]
    layer = _row_layer()
    return Cache(
        layers=[
            layer(keys[rows], values[rows], written, length)
            for keys, values in zip(cache.tensors[::2], cache.tensors[1::2], strict=True)
        ]
    )


@functools.cache
def _row_layer() -> type[CacheLayerMixin]:
    """Return the class of the layers, which is made at its first use: transformers is an extra."""
    from transformers.cache_utils import CacheLayerMixin

    class RowLayer(CacheLayerMixin):  # type: ignore[misc]
        """The keys and values of a layer for n rows, [n, heads, L, width] each.

        Args:
            keys: keys of the rows.
            values: values of the rows.
            written: first position to write, of all rows; or those of each, int64 [n, 1, T, 1].
            length: number of positions that attention reads.
        """

        def __init__(
            self, keys: Tensor, values: Tensor, written: int | Tensor, length: int
        ) -> None:
            super().__init__()
            self.keys, self.values, self.is_initialized = keys, values, True
            self._written, self._length = written, length

        def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
            """Do nothing: the memory exists."""

        def update(
            self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any
        ) -> tuple[Tensor, Tensor]:
            """Write keys and values [n, heads, T, width], and return those of all positions."""
            for stored, states in ((self.keys, key_states), (self.values, value_states)):
                if isinstance(self._written, int):
                    stored.narrow(2, self._written, states.shape[2]).copy_(states)
                else:
                    stored.scatter_(2, self._written.expand_as(states), states)
            return self.keys.narrow(2, 0, self._length), self.values.narrow(2, 0, self._length)

        def get_mask_sizes(self, query_length: int) -> tuple[int, int]:  # noqa: ARG002
            """Return the number of positions that attention reads, and the first one."""
            return self._length, 0

        def get_seq_length(self) -> int:
            """Return the number of positions before the inputs; 0 if it differs between rows."""
            return self._written if isinstance(self._written, int) else 0

        def get_max_length(self) -> int:
            """Return the number of positions that there is room for."""
            return int(self.keys.shape[2])

    return RowLayer
