"""Training stage and objective of the prior, on the codes of the training split."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anytime_ar.autoencoder import OrderedAutoencoder, Tokenizer
from anytime_ar.bundle.format import attach_codebook
from anytime_ar.codes import largest_vocabulary, random_codes
from anytime_ar.conditions import Conditions, concatenate_conditions, hide_rows
from anytime_ar.data import AugmentationConfig, Batch, DataSplits, Split
from anytime_ar.errors import InputError
from anytime_ar.prior import CausalPrior, Prior
from anytime_ar.runtime.distributed import FULL_BATCH, BatchShard, DistributedContext
from anytime_ar.runtime.memory import check_memory
from anytime_ar.runtime.seeding import generator_for
from anytime_ar.training.config import PriorTrainingConfig, TrainConfig
from anytime_ar.training.stages import ENCODE_BATCH_SIZE, Losses, Stage

if TYPE_CHECKING:
    from lightning_fabric import Fabric


class PriorStage(Stage):
    """The stage that trains the prior on codes that are computed once, with early stopping."""

    name = "prior"

    def __init__(
        self,
        prior: Prior | CausalPrior,
        autoencoder: Tokenizer,
        data: DataSplits,
        config: TrainConfig,
        fabric: Fabric,
        distributed: DistributedContext,
    ) -> None:
        """Encode the training and validation splits, and attach the codebook to the prior."""
        options = config.prior_training
        self.config, self.distributed = config, distributed
        self.batch_sizes = tuple(
            round(options.batch_size / share) for share in options.prefix_fractions
        )
        self.steps, self.optimizer = options.steps, options.optimizer
        self.validate_every = options.validate_every
        self.patience: int | None = options.patience
        self.ema_decay = options.ema_decay
        self.objective: nn.Module = PriorObjective(prior, options.code_noise)
        autoencoder.to(fabric.device).eval()
        attach_codebook(autoencoder, prior)
        conditional = prior.label_count > 0
        self.codes, self.labels, self.conditions = encode_training_split(
            autoencoder,
            data.train,
            config,
            conditional=conditional,
            fabric=fabric,
            distributed=distributed,
        )
        if isinstance(prior, Prior) and self.conditions is not None:
            prior.standardize_conditions(self.conditions)
        self._current_order: tuple[int, Tensor] = (-1, torch.empty(0))  # epoch, order
        self.validation = _encode_batches(
            autoencoder,
            data.validation.batches(ENCODE_BATCH_SIZE),
            conditional,
            fabric,
            distributed,
        )

    def batch(self, step: int) -> PriorBatch:
        """Return this process's shard of the code sequences of a step.

        Each epoch contains every sequence once, in an order that depends on seed and epoch alone.

        Returns:
            Codes, int64 [n, k] with prefix length k, labels, int64 [n] or None, and conditions.
        """
        options, sizes = self.config.prior_training, self.batch_sizes
        turns, turn = divmod(step, len(sizes))
        first = turns * sum(sizes) + sum(sizes[:turn])
        rows_here = self.distributed.batch_shard().local_indices(sizes[turn])
        wanted = first + torch.arange(rows_here.start, rows_here.stop)
        length = math.ceil(options.prefix_fractions[turn] * self.codes.shape[1])
        epochs = wanted // len(self.codes)
        rows = torch.cat(
            [
                self._epoch_order(int(epoch))[wanted[epochs == epoch] % len(self.codes)]
                for epoch in epochs.unique()
            ]
        )
        codes = self.codes[rows, :length].long()
        return codes, *_rows_of(self.labels, self.conditions, rows)

    def timing_batches(self, batch_size: int) -> list[PriorBatch]:
        """Return a batch for each prefix length, of the first sequences of the training split.

        Args:
            batch_size: Sequences in the batch of the first prefix length; the other batches are
                scaled as in training.

        Returns:
            Codes, int64 [n, k], labels, int64 [n] or None, and conditions of each batch.
        """
        return timing_batches(
            self.config.prior_training, self.codes, self.labels, self.conditions, batch_size
        )

    def _epoch_order(self, epoch: int) -> Tensor:
        if self._current_order[0] != epoch:
            generator = generator_for(self.config.seed, "code order", epoch)
            self._current_order = (epoch, torch.randperm(len(self.codes), generator=generator))
        return self._current_order[1]

    @torch.no_grad()
    def validate(self, objective: nn.Module, fabric: Fabric) -> dict[str, float]:
        """Return `loss`, the negative log-likelihood of validation codes in nats per code."""
        total = torch.zeros((), dtype=torch.float64)
        codes, labels, conditions = self.validation
        starts = range(0, len(codes), ENCODE_BATCH_SIZE)
        for at in starts[self.distributed.rank :: self.distributed.world_size]:
            rows = torch.arange(at, min(at + ENCODE_BATCH_SIZE, len(codes)))
            part, *given = fabric.to_device(
                (codes[rows].long(), *_rows_of(labels, conditions, rows))
            )
            with fabric.autocast():
                loss = objective(part, *given)["loss"]
            total += float(loss) * len(part)
        return {"loss": float(self.distributed.all_reduce_sum(total)) / len(codes)}

    def state_dict(self) -> dict[str, Any]:
        """Return the number of code sequences; the step alone determines the position in them."""
        return {"sequences": len(self.codes)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Check that the number of code sequences is that of the checkpoint.

        Raises:
            KeyError: The numbers differ.
        """
        if state["sequences"] != len(self.codes):
            raise KeyError(f"{state['sequences']} code sequences then, {len(self.codes)} now")


PriorBatch = tuple[Tensor, Tensor | None, Conditions | None]
"""Codes, int64 [n, k], labels, int64 [n] or None, and n rows of each condition or None."""


def _rows_of(
    labels: Tensor | None, conditions: Conditions | None, rows: Tensor
) -> tuple[Tensor | None, Conditions | None]:
    """Return labels and conditions of some rows, int64 [n]."""
    given = None if conditions is None else {name: x[rows] for name, x in conditions.items()}
    return None if labels is None else labels[rows], given


def timing_batches(
    options: PriorTrainingConfig,
    codes: Tensor,
    labels: Tensor | None,
    conditions: Conditions | None,
    batch_size: int,
) -> list[PriorBatch]:
    """Return a batch of the first sequences for each prefix length.

    Args:
        options: Settings of the stage.
        codes: Code sequences, [N, L].
        labels: Labels, int64 [N] or None.
        conditions: N rows of each condition, or None.
        batch_size: Sequences in the batch of the first prefix length; the other batches are scaled
            as in training.

    Returns:
        Codes, int64 [n, k], labels, int64 [n] or None, and conditions of each batch.
    """
    sizes = [round(options.batch_size / share) for share in options.prefix_fractions]
    batches: list[PriorBatch] = []
    for size, share in zip(sizes, options.prefix_fractions, strict=True):
        taken = torch.arange(batch_size * size // sizes[0]) % len(codes)
        length = math.ceil(share * codes.shape[1])
        batches.append((codes[taken, :length].long(), *_rows_of(labels, conditions, taken)))
    return batches


def encode_training_split(
    autoencoder: Tokenizer,
    split: Split,
    config: TrainConfig,
    *,
    conditional: bool,
    fabric: Fabric,
    distributed: DistributedContext,
) -> PriorBatch:
    """Encode a split, with as many augmented copies of each sample as the configuration asks for.

    Args:
        autoencoder: Trained autoencoder or other tokenizer, on the device.
        split: Split with N samples.
        config: Configuration of the run, with augmentation and number of copies.
        conditional: Whether to return labels.
        fabric: Device and precision.
        distributed: The processes, which share the batches.

    Returns:
        Codes, int16 or int32 [N * augmented_copies, L], labels, int64 [N * augmented_copies], or
        None if `conditional` is False, and as many rows of each condition. Every process gets all
        of them.

    Raises:
        InputError: The split does not give its size, which augmented copies need.
    """
    options = config.prior_training
    if options.augmented_copies == 1 and options.augmentation == AugmentationConfig():
        return _encode_batches(
            autoencoder, split.batches(ENCODE_BATCH_SIZE), conditional, fabric, distributed
        )
    size = split.size
    if size is None:
        raise InputError(
            f"{split.origin} does not say how many samples it has, so it cannot be encoded "
            f"{options.augmented_copies} times; set prior_training.augmented_copies to 1 without "
            "augmentation"
        )
    batches = split.shuffled(ENCODE_BATCH_SIZE, config.seed, options.augmentation)
    wanted = size * options.augmented_copies
    taken = (next(batches) for _ in range(-(-wanted // ENCODE_BATCH_SIZE)))
    codes, labels, conditions = _encode_batches(
        autoencoder, taken, conditional, fabric, distributed
    )
    return codes[:wanted], *_rows_of(labels, conditions, torch.arange(wanted))


@torch.no_grad()
def _encode_batches(
    autoencoder: Tokenizer,
    batches: Iterable[Batch],
    conditional: bool,
    fabric: Fabric,
    distributed: DistributedContext,
) -> PriorBatch:
    """Encode batches, each in one of the processes; see `encode_training_split`."""
    largest = largest_vocabulary(autoencoder.vocabulary)
    compact = torch.int16 if largest <= 2**15 else torch.int32
    codes: list[Tensor] = []
    labels: list[Tensor] = []
    conditions: list[Conditions] = []
    for number, batch in enumerate(batches):
        encoded = torch.zeros(len(batch.data), autoencoder.code_length, dtype=compact)
        if number % distributed.world_size == distributed.rank:
            x = fabric.to_device(batch.data)
            if type(autoencoder) is OrderedAutoencoder:
                with fabric.autocast():
                    found = autoencoder.quantizer.encode(autoencoder.encode_vectors(x))
            else:  # its codes are those that the finished model will encode
                found = autoencoder.encode(x)
            encoded = found.to(compact).cpu()
        codes.append(encoded)
        if conditional:
            assert batch.labels is not None
            labels.append(batch.labels)
        if batch.conditions is not None:
            conditions.append(batch.conditions)
    return (
        distributed.all_reduce_sum(torch.cat(codes)),
        torch.cat(labels) if conditional else None,
        concatenate_conditions(conditions),
    )


def check_sequence_memory(config: TrainConfig, tokenizer: Tokenizer, nodes: int) -> None:
    """Check that the code sequences of a batch fit into memory, before the training begins.

    Args:
        config: Configuration of a run that trains a prior.
        tokenizer: Tokenizer of the codes.
        nodes: Number of machines, which share a batch.

    Raises:
        InputError: They do not fit.
    """
    count = config.prior_training.batch_size
    needed = 8 * count * tokenizer.code_length // nodes
    check_memory(f"prior_training.batch_size={count}", needed)


class PriorObjective(nn.Module):
    """Mean negative log-likelihood of codes, in nats per code.

    Args:
        prior: The prior over codes.
        code_noise: Share of the input codes that random entries replace, [0, 1).
    """

    def __init__(self, prior: Prior | CausalPrior, code_noise: float = 0.0) -> None:
        """Store the prior and the share of noise."""
        super().__init__()
        self.prior = prior
        self.code_noise = code_noise

    def forward(
        self,
        codes: Tensor,
        labels: Tensor | None,
        conditions: Conditions | None = None,
        generator: torch.Generator | None = None,
        shard: BatchShard = FULL_BATCH,
    ) -> Losses:
        """Return the loss of code sequences.

        In training mode, random labels and conditions are dropped and random input codes replaced.
        A sequence gets the same ones whether its batch is sharded or not.

        Args:
            codes: Codes, int64 [B, L], or a prefix of them.
            labels: Class labels, int64 [B]; None: without labels.
            conditions: B rows of each condition; None: without conditions.
            generator: CPU generator of this step, required in training mode.
            shard: Which shard of the batch `codes` are.

        Returns:
            `loss`, in nats per code.
        """
        seen = codes
        if self.training:
            assert generator is not None
            labels, conditions = self._drop(codes[:, 0], labels, conditions, generator, shard)
            if self.code_noise:
                shape = shard.global_batch_size(len(codes)), codes.shape[1]
                random = random_codes(self.prior.vocabulary, shape, generator)
                replaced = _random_mask(self.code_noise, codes, generator, shard)
                seen = torch.where(replaced, shard.local_slice(random).to(codes.device), codes)
        given = (labels,) if conditions is None else (labels, conditions)
        logits = self.prior(seen, *given)  # [B, L, V]
        return {"loss": F.cross_entropy(logits.flatten(0, 1).float(), codes.flatten())}

    def _drop(
        self,
        like: Tensor,
        labels: Tensor | None,
        conditions: Conditions | None,
        generator: torch.Generator,
        shard: BatchShard,
    ) -> tuple[Tensor | None, Conditions | None]:
        """Hide labels and conditions at random, all of a sequence together and each by itself.

        Args:
            like: A tensor [B] on the device.
            labels: See `forward`.
            conditions: See `forward`.
            generator: See `forward`.
            shard: See `forward`.
        """
        if labels is None and conditions is None:
            return None, None
        all_hidden = _random_mask(self.prior.label_dropout, like, generator, shard)
        hidden = dict.fromkeys(["label", *(conditions or {})], all_hidden)
        if conditions is not None and len(conditions) + (labels is not None) > 1:
            assert isinstance(self.prior, Prior)
            share = self.prior.config.condition_dropout
            for name in hidden:
                hidden[name] = all_hidden | _random_mask(share, like, generator, shard)
        if labels is not None:
            labels = torch.where(hidden["label"], self.prior.no_label, labels)
        if conditions is not None:
            del hidden["label"]
            conditions = hide_rows(self.prior.conditions, conditions, hidden)
        return labels, conditions


def _random_mask(
    probability: float, like: Tensor, generator: torch.Generator, shard: BatchShard
) -> Tensor:
    """Return a random mask, True with a probability, the same for a shard as for its batch.

    Args:
        probability: Probability of True, [0, 1).
        like: Tensor of the shard, whose shape and device the mask gets.
        generator: CPU generator of this step.
        shard: Which shard of the batch `like` is.
    """
    drawn = torch.rand(shard.global_batch_size(len(like)), *like.shape[1:], generator=generator)
    return (shard.local_slice(drawn) < probability).to(like.device)
