"""Features of a network that others trained, from a TorchScript file.

The interface is that of `inception-2015-12-05.pt`, the Inception network in which Fréchet distances
of images are usually told: called with uint8 images [B, 3, H, W] of any size and
`return_features=True`, it gives float32 [B, F].
"""

from __future__ import annotations

import warnings
import zipfile
from pathlib import Path

import torch
from torch import Tensor

from anytime_ar.errors import BundleError, InputError


class TorchScriptFeatureExtractor:
    """Maps images to features.

    Args:
        path: the TorchScript file.
        device: where it runs.

    Raises:
        BundleError: the file cannot be read, or does not give features of images.
    """

    def __init__(self, path: Path, device: torch.device | str = "cpu") -> None:
        self.path, self.device = path, torch.device(device)
        if not path.is_file():
            raise BundleError(f"{path}: no such file; pass a TorchScript file")
        if not zipfile.is_zipfile(path):
            raise BundleError(
                f"{path} is no TorchScript file, which is a zip archive; pass one, or a folder "
                "that `anytime features` wrote"
            )
        try:
            with warnings.catch_warnings():
                # TorchScript is on its way out; the file that everybody compares by is not.
                warnings.simplefilter("ignore", DeprecationWarning)
                self._network = torch.jit.load(path, map_location=self.device).eval()
        except (RuntimeError, ValueError, OSError) as error:
            raise BundleError(
                f"{path} is a zip archive, but no TorchScript file that this PyTorch reads; pass "
                "one, or a folder that `anytime features` wrote"
            ) from error
        try:
            found = self(torch.zeros(2, 3, 32, 32))
        except RuntimeError as error:
            raise BundleError(
                f"{path} does not take uint8 images [B, 3, H, W] and return_features=True, so it "
                "gives no features; pass a network such as inception-2015-12-05.pt"
            ) from error
        if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2:
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise BundleError(f"{path} gives {shape} for 2 images; features are [2, F]")

    @torch.no_grad()
    def __call__(self, samples: Tensor) -> Tensor:
        """float32 [B, C, H, W] in [-1, 1], C of 1 or 3, to float32 [B, F] on the CPU.

        Raises:
            InputError: the samples are no images.
        """
        if samples.ndim != 4 or samples.shape[1] not in (1, 3):
            raise InputError(
                f"{self.path} takes images (1 or 3, H, W), and these samples are "
                f"{tuple(samples.shape[1:])}; train features on them with `anytime features`"
            )
        pixels = ((samples.to(self.device).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        features = self._network(pixels.expand(-1, 3, -1, -1), return_features=True)
        return features.float().cpu() if isinstance(features, Tensor) else features
