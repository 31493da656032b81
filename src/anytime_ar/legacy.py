"""Names of version 0.1 and what they are called now: keys, values, weights, stages, options.

Configurations, bundles, curves, saved states, runs and bulk jobs of 0.1 hold the old names.
`Config` accepts its keys and values, the command line rewrites YAML files, commands and options,
and code that reads weights calls `upgrade_weights`. To be removed with version 0.3.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

KEYS: Mapping[str, Mapping[str, str]] = {
    "AugmentationConfig": {"sound": "audio"},
    "AudioAugmentationConfig": {"loudness_db": "attenuation_db", "invert": "invert_polarity"},
    "AudioConfig": {"longest_seconds": "max_stored_seconds", "loudness": "normalize"},
    "AutoencoderConfig": {
        "order": "scan_order",
        "whole_codes": "global_codes",
        "linear_path": "linear_skip",
    },
    "AutoencoderTrainingConfig": {
        "kept_per": "truncation_per",
        "spectral_weight": "stft_loss_weight",
        "start_samples": "codebook_init_samples",
    },
    "BulkJob": {"layout": "sharding"},
    "Card": {"choice": "sampling_params", "weights": "weights_dtype"},
    "CodebookUsage": {"used": "used_fraction", "nats": "nll"},
    "Curve": {
        "choice": "sampling_params",
        "lossless_codes": "near_lossless_codes",
        "floor": "fd_train",
        "floor_quality": "train_metrics",
        "floor_samples": "num_train_samples",
        "real_accuracy": "label_accuracy_test",
        "samples": "num_samples",
        "test_samples": "num_test_samples",
        "nats_train": "nll_train",
        "nats_test": "nll_test",
        "code_use": "codebook_usage",
    },
    "DataConfig": {"sound": "audio", "layout": "folder_layout"},
    "DecoderGANConfig": {"gradient_penalty": "r1_gamma", "width": "discriminator_width"},
    "DistributedConfig": {"passes": "gradient_accumulation_steps"},
    "DistributionMetrics": {
        "fd_error": "fd_stderr",
        "kd_error": "kd_stderr",
        "precision_error": "precision_stderr",
        "recall_error": "recall_stderr",
    },
    "EncodeJob": {"inputs": "data_fingerprint", "part": "split"},
    "Experiment": {"features": "feature_extractor"},
    "FeatureExtractorConfig": {"features": "num_features"},
    "LappedQuantizerConfig": {
        "learned_by": "codebook_update",
        "start": "init",
        "restart_below": "dead_code_threshold",
    },
    "NetworkConfig": {"shrink": "downsample"},
    "OptimizerConfig": {"matrices": "kind"},
    "PriorConfig": {
        "shared_entries": "positions_per_table",
        "entry_width": "embedding_width",
        "traits": "codebook_features",
        "label_everywhere": "condition_every_position",
    },
    "PriorTrainingConfig": {"prefixes": "prefix_fractions", "views": "augmented_copies"},
    "QualityPoint": {
        "reconstructions": "reconstruction_metrics",
        "samples": "sample_metrics",
        "nearness": "nn_distance_ratio",
        "measures": "metrics",
        "accuracy": "label_accuracy_reconstruction",
        "agreement": "label_accuracy_sample",
    },
    "SampleJob": {"choice": "sampling_params", "keep": "save"},
    "ServingConfig": {"keep_s": "session_ttl_s"},
    "TrainConfig": {
        "sharpening": "decoder_gan",
        "choice": "sampling_params",
        "weights": "weights_dtype",
    },
    "_StateHeader": {"choice": "sampling_params"},
}
"""New keys by old ones, by the class that has them."""
VALUES: Mapping[tuple[str, str], Mapping[Any, Any]] = {
    ("AudioConfig", "normalize"): {"as_stored": "none"},
    ("AutoencoderConfig", "layout"): {"vector": "projection", "residual": "residual_vq"},
    ("AutoencoderConfig", "scan_order"): {"rows": "raster", "spread": "bayer"},
    ("LappedQuantizerConfig", "init"): {"greedy": "residual_pca"},
    ("BulkJob", "format_version"): {1: 2},
    ("Card", "format_version"): {1: 2},
    ("Curve", "format_version"): {1: 2},
    ("_StateHeader", "format_version"): {1: 2},
}
"""New values by old ones, by class and new key."""
WEIGHTS: Mapping[str, str] = {
    "linear_path": "linear_skip",
    "filling": "noise_substitution",
    "bend": "mlp",
    "spread": "conv1",
    "mix": "conv2",
    "whole": "global_quantizer",
    "local": "level_quantizer",
    "usage": "cluster_size",
    "totals": "embed_avg",
    "entries": "code_embedding",
    "entry_bias": "output_bias",
    "widen": "embedding_projection",
    "positions": "position_embedding",
    "start": "label_embedding",
    "reminder": "added_label_embedding",
    "by_kept": "prefix_embedding",
    "front": "front_end",
}
"""New names of modules, parameters and buffers by old ones."""
CODEBOOK_SETTINGS = frozenset(
    {"vocabulary", "shared_codebook", "codebook_update", "init", "ema_decay"}
    | {"dead_code_threshold", "error_feedback"}
)
"""Settings that version 0.1 accepts for every quantizer and uses for codebooks only."""
STAGES: Mapping[str, str] = {"decoder_gan": "sharpening"}
"""Old names of training stages by new ones. They also name random streams, which stay."""
COMMANDS: Mapping[str, str] = {"features": "train-classifier"}
"""New commands by old ones."""
BULK_OPTIONS: Mapping[str, frozenset[str]] = {
    "sample": frozenset({"--engine"}),
    "encode": frozenset({"--engine", "--data"}),
}
"""Options of 0.1 that made a bulk job of a command, by command; now it is `bulk COMMAND`."""
OPTIONS: Mapping[str, Mapping[str, str]] = {
    "train": {"--passes": "--gradient-accumulation-steps"},
    "evaluate": {
        "--samples": "--num-samples",
        "--features": "--feature-extractor",
        "--attach": "--save-curve",
        "--no-attach": "--no-save-curve",
    },
    "compare": {"--dedicated": "--fixed-length"},
    "bench": {
        "--n": "--num-samples",
        "--batches": "--batch-sizes",
        "--neighbours": "--busy-processes",
    },
    "serve": {"--keep-s": "--session-ttl-s"},
    "sample": {"--n": "--num-samples"},
    "bulk sample": {
        "--n": "--num-samples",
        "--keep": "--save",
        "--labels-in-turn": "--class-balanced",
    },
}
"""New options by old ones, with hyphens, by command."""
_BULK_SAMPLES = 16
"""Number of samples of a sampling job of 0.1 without `-n`."""

_OLD_WEIGHTS = {new: old for old, new in WEIGHTS.items()}
_warned: set[str] = set()


def upgrade(classes: list[str], values: Any) -> Any:
    """Return values of a configuration under their present names.

    Args:
        classes: names of the configuration's class and of its bases.
        values: as they came; anything but a dictionary is returned as it is.

    Raises:
        ValueError: a value of version 0.1 does not fit the others.
    """
    if not isinstance(values, dict):
        return values
    for name in classes:
        renamed = KEYS.get(name, {})
        # Both names at once: the old one stays, and is refused as unknown.
        values = {
            key if renamed.get(key, key) in values else renamed.get(key, key): value
            for key, value in values.items()
        }
        for (owner, key), changed in VALUES.items():
            if owner == name and isinstance(values.get(key), str | int):
                values = values | {key: changed.get(values[key], values[key])}
    match values:
        case {"network": {"kind": "linear"}} if values.get("layout", "projection") in (
            "projection",
            "linear",
        ):
            return _without(values, "network") | {"layout": "linear"}
        case {"network": {"kind": "conv"} as network}:
            return values | {"network": _without(network, "kind")}
        case {"network": {"kind": kind}}:
            raise ValueError(
                f"network.kind is {kind!r}, and layout is {values.get('layout', 'projection')!r}: "
                "the network of layout linear is linear, that of any other one is convolutional; "
                "drop network.kind, and choose layout=linear for a linear network"
            )
        case {"init": "residual_pca"} if values.get("kind", "vq") == "vq":
            return _without(values, "init") | {"kind": "residual_pca"}
    return values


def upgrade_flat(values: dict[str, Any]) -> dict[str, Any]:
    """Return the layout or quantizer that version 0.1 chooses by several settings.

    Args:
        values: settings under their present names, from files and options together.
    """
    match values:
        case {"layout": "segment" | "lapped_segment" as layout}:
            lapped = layout == "lapped_segment"
            skip = values.get("linear_skip", lapped)
            num_global = values.get("global_codes", 0 if lapped else 1)
            rest = _without(values, "linear_skip", "global_codes")
            if skip is True and num_global == 0:
                return rest | {"layout": "lapped_segment"}
            return rest | {"layout": "segment", "linear_skip": skip, "global_codes": num_global}
        case {"kind": "residual_pca", "init": _}:
            return values | {"kind": "vq"}
        case {"kind": "fsq"}:
            return _without(values, *CODEBOOK_SETTINGS)
        case {"kind": "none"}:
            return _without(values, "commitment", *CODEBOOK_SETTINGS)
    return values


def upgrade_weights(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a state dictionary under the present names of its weights."""
    return {_renamed(name, WEIGHTS): value for name, value in state.items()}


def old_weight_name(name: str) -> str:
    """Return what a weight was called in version 0.1, which fingerprints are made of."""
    return _renamed(name, _OLD_WEIGHTS)


def warn_renamed(old: str, new: str) -> None:
    """Warn, once a process for each name, that something is called otherwise now."""
    if old not in _warned:
        _warned.add(old)
        warnings.warn(
            f"{old} is called {new} since version 0.2; the old name goes with 0.3",
            FutureWarning,
            stacklevel=3,
        )


def upgrade_arguments(arguments: list[str]) -> list[str]:
    """Return a command and its options under their present names, warning of the others.

    Args:
        arguments: what follows `anytime` on the command line.
    """
    if not arguments:
        return arguments
    command, *rest = arguments
    if command in COMMANDS:
        warn_renamed(f"anytime {command}", f"anytime {COMMANDS[command]}")
        command = COMMANDS[command]
    words = [command]
    end = rest.index("--") if "--" in rest else len(rest)
    bulk = [name for name in map(_option, rest[:end]) if name in BULK_OPTIONS.get(command, ())]
    if bulk:
        warn_renamed(f"anytime {command} {bulk[0]}", f"anytime bulk {command}")
        words = ["bulk", command]
        if command == "sample" and not any(
            argument.startswith("-n") or _option(argument) in ("--n", "--num-samples")
            for argument in rest[:end]
        ):
            rest[:0] = ["-n", str(_BULK_SAMPLES)]
            end += 2
    elif command == "bulk" and rest:
        words.append(rest.pop(0))
        end -= 1
    renamed = OPTIONS.get(" ".join(words), {})
    for at, argument in enumerate(rest[:end]):
        old = _option(argument)
        if old in renamed:
            warn_renamed(old, renamed[old])
            rest[at] = renamed[old] + argument[len(old) :]
    return [*words, *rest]


def _option(argument: str) -> str:
    """Return the name of an option with hyphens, without a value that follows `=`."""
    return argument.partition("=")[0].replace("_", "-")


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _renamed(name: str, names: Mapping[str, str]) -> str:
    return ".".join(names.get(part, part) for part in name.split("."))
