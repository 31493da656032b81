"""SNAC codecs as tokenizers, with small models of the library's own class."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from snac import SNAC

import anytime_ar as aar
from anytime_ar.autoencoder import check_tokenizer
from anytime_ar.autoencoder.snac import SnacTokenizer
from anytime_ar.errors import BundleError, InputError
from anytime_ar.prior import Prior, PriorConfig

SAMPLES = 100
CONFIG: dict[str, Any] = {
    "sampling_rate": 8000,
    "encoder_dim": 4,
    "encoder_rates": [2, 4],
    "decoder_dim": 16,
    "decoder_rates": [4, 2],
    "attn_window_size": None,
    "codebook_size": 16,
    "codebook_dim": 4,
    "vq_strides": [4, 2, 1],
}
ATTENTION = {"attn_window_size": 4, "encoder_dim": 16, "decoder_dim": 64}
KINDS: dict[str, dict[str, Any]] = {
    "noisy": {},
    "quiet": {"noise": False},
    "dense": {"depthwise": False},
    "attention": ATTENTION,
}


def codec(**changes: Any) -> SNAC:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SNAC(**CONFIG | changes).eval()


def sounds(count: int = 2) -> torch.Tensor:
    return 0.3 * torch.randn(count, 1, SAMPLES, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_whole_levels_are_what_the_codec_itself_encodes_and_decodes(kind: str) -> None:
    model = codec(**KINDS[kind])
    own = model.encode(sounds())
    tokenizer = SnacTokenizer(model, SAMPLES)
    check_tokenizer(tokenizer)
    assert tokenizer.level_lengths == (4, 8, 16)
    assert (tokenizer.code_length, tokenizer.vocabulary) == (28, 16)
    assert (tokenizer.sample_shape, tokenizer.sample_rate) == ((1, SAMPLES), 8000)
    codes = tokenizer.encode(sounds())
    assert torch.equal(codes, torch.cat(own, dim=1))
    assert len(codes.unique()) > 2
    few = SnacTokenizer(model, SAMPLES, levels=2)
    assert torch.equal(few.encode(sounds()), codes[:, :12])
    codes = torch.randint(16, (2, 28), generator=torch.Generator().manual_seed(0))
    expected = model.decode([*codes.split((4, 8, 16), dim=1)])[..., :SAMPLES]
    assert expected.std() > 0
    torch.testing.assert_close(tokenizer.decode(codes), expected)
    assert torch.equal(few.decode(codes[:, :12]), tokenizer.decode(codes[:, :12]))


@torch.no_grad()
def test_a_level_in_part_changes_the_time_that_has_it() -> None:
    tokenizer = SnacTokenizer(codec(), SAMPLES)
    codes = torch.randint(16, (2, 28), generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []
    tokenizer.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for drawn in (4, 4 + 3, 4 + 8, 1):
        tokenizer.decode(codes[:, :drawn])
    before, partial, after, first = seen
    close = torch.testing.assert_close
    close(partial[..., :6], after[..., :6])  # a code of level 2 is two frames
    close(partial[..., 6:], before[..., 6:])
    assert not torch.allclose(before[..., 6:], after[..., 6:], atol=1e-3)
    close(first[..., :4], before[..., :4])
    assert not first[..., 4:].any()


def test_noise_is_the_same_in_any_batch_and_state_of_pytorch() -> None:
    tokenizer = SnacTokenizer(codec(), SAMPLES)
    codes = tokenizer.encode(sounds(3))
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        together = tokenizer.decode(codes)
        assert torch.equal(torch.random.get_rng_state(), before)
    for row in range(3):
        alone = tokenizer.decode(codes[row : row + 1])[0]
        torch.testing.assert_close(alone, together[row], atol=1e-6, rtol=1e-5)
    quiet = codec()
    tokenizer.model.decoder = SnacTokenizer(quiet, SAMPLES).model.decoder
    for part in tokenizer.model.decoder.modules():
        if type(part).__name__ == "_FixedNoise":
            part.forward = lambda x: x  # type: ignore[method-assign]
    assert not torch.allclose(tokenizer.decode(codes), together, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_a_saved_codec(kind: str, tmp_path: Path) -> None:
    config = CONFIG | KINDS[kind]
    (tmp_path / "codec").mkdir()
    (tmp_path / "codec" / "config.json").write_text(json.dumps(config))
    torch.save(codec(**KINDS[kind]).state_dict(), tmp_path / "codec" / "pytorch_model.bin")
    tokenizer = SnacTokenizer.from_settings(
        {"name": str(tmp_path / "codec"), "samples": SAMPLES, "levels": 2}
    )
    prior = Prior(PriorConfig(layers=1, width=8, heads=2), 12, tokenizer.vocabulary)
    model = aar.AnytimeModel.from_parts(
        tokenizer, prior, name="snac", sample_rate=tokenizer.sample_rate, device="cpu"
    )
    x = model.sample(2, seed=0)
    assert x.shape == (2, 1, SAMPLES)
    assert model.sample(2, codes=5, seed=0).isfinite().all()
    model.save(tmp_path / "model")
    loaded = aar.load(tmp_path / "model", device="cpu")
    assert loaded.autoencoder.get_config() == tokenizer.get_config()
    assert torch.equal(loaded.sample(2, seed=0), x)
    codes = model.encode(sounds())
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copied.decode(codes), tokenizer.decode(codes))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 9}, "a SNAC codec has the settings samples; give name, samples and perhaps"),
        ({"model": CONFIG, "samples": 9, "levels": 4}, "levels=4: this codec has 3; pass 1 to"),
        ({"model": CONFIG, "samples": 0}, "samples=0: a sound has at least one"),
        ({"model": {"layers": 3}, "samples": 9}, r"no SNAC codec \(TypeError: .*layers.*\); give"),
        ({"name": "nowhere", "samples": 9, "level": 2}, "level is no argument of it"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SnacTokenizer.from_settings(settings)


def test_a_folder_that_is_no_codec(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is no SNAC codec that can be loaded \(FileNotFound"):
        SnacTokenizer.from_pretrained(str(tmp_path), SAMPLES)


def test_a_bundle_of_a_codec_that_is_too_large(tmp_path: Path) -> None:
    from anytime_ar.bundle.format import file_digests
    from anytime_ar.runtime.files import write_json

    folder = tmp_path / "model"
    tokenizer = SnacTokenizer(codec(), SAMPLES)
    aar.AnytimeModel.from_parts(tokenizer, sample_rate=8000, device="cpu").save(folder)
    values = json.loads((folder / "config.json").read_text())
    values["autoencoder"]["config"]["model"]["decoder_dim"] = 2**20
    write_json(folder / "config.json", values)
    write_json(folder / "manifest.json", file_digests(folder))
    with pytest.raises(BundleError, match="networks that are much larger than the"):
        aar.load(folder)
