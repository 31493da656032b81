"""Neural audio codecs of transformers as tokenizers."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch
from transformers import (
    DacConfig,
    DacModel,
    EncodecConfig,
    EncodecModel,
    LlamaConfig,
    LlamaModel,
    MimiConfig,
    MimiModel,
    PreTrainedModel,
)

from anytime_ar.autoencoder import check_tokenizer
from anytime_ar.autoencoder.neural_codecs import CodecTokenizer
from anytime_ar.errors import InputError

SAMPLES, V = 400, 16


def encodec(**changes: Any) -> EncodecModel:
    sizes = {
        "sampling_rate": 8000,
        "num_filters": 2,
        "hidden_size": 8,
        "codebook_dim": 8,
        "codebook_size": V,
        "upsampling_ratios": [5, 4, 4],
        "num_lstm_layers": 1,
        "target_bandwidths": [3.0],
    }
    return EncodecModel(EncodecConfig(**sizes | changes))


def dac() -> DacModel:
    return DacModel(
        DacConfig(
            sampling_rate=8000,
            encoder_hidden_size=4,
            decoder_hidden_size=16,
            downsampling_ratios=[2, 4, 8],
            upsampling_ratios=[8, 4, 2],
            n_codebooks=3,
            codebook_size=V,
            codebook_dim=4,
        )
    )


def mimi() -> MimiModel:
    return MimiModel(
        MimiConfig(
            sampling_rate=8000,
            num_filters=2,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            codebook_size=V,
            codebook_dim=8,
            vector_quantization_hidden_dimension=8,
            upsampling_ratios=[5, 4, 4],
            num_quantizers=3,
            num_semantic_quantizers=1,
            upsample_groups=16,
        )
    )


CODECS = {"encodec": encodec, "dac": dac, "mimi": mimi}


@pytest.fixture(params=CODECS)
def codec(request: pytest.FixtureRequest) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: PreTrainedModel = CODECS[request.param]().eval()
        with torch.no_grad():  # codebooks of zeros would hide mistakes
            for name, buffer in model.named_buffers():
                if name.endswith(("embed", "embed_sum")):
                    buffer.normal_()
        return model


def sounds() -> torch.Tensor:
    return 0.3 * torch.randn(2, 1, SAMPLES, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def decode_itself(codec: PreTrainedModel, levels: torch.Tensor) -> torch.Tensor:
    """What the codec's own `decode` makes of codes [B, Q, frames]: [B, 1, SAMPLES]."""
    if codec.config.model_type == "encodec":
        decoded = codec.decode(levels[None], [None])
    else:
        decoded = codec.decode(audio_codes=levels)
    x = decoded.audio_values.view(len(levels), 1, -1)[..., :SAMPLES].clamp(-1, 1)
    return torch.nn.functional.pad(x, (0, SAMPLES - x.shape[2]))


@torch.no_grad()
def test_whole_levels_are_what_the_codec_itself_encodes_and_decodes(codec: PreTrainedModel) -> None:
    tokenizer = CodecTokenizer(codec, SAMPLES, levels=3)
    check_tokenizer(tokenizer)
    assert (tokenizer.sample_shape, tokenizer.sample_rate) == ((1, SAMPLES), 8000)
    codes = tokenizer.encode(sounds())
    assert codes.shape == (2, tokenizer.code_length) == (2, 3 * tokenizer.frames)
    levels = codes.view(2, 3, tokenizer.frames)
    own = codec.encode(sounds()).audio_codes
    own = own[0] if own.ndim == 4 else own
    assert torch.equal(levels, own[:, :3])
    assert len(levels.unique()) > 2
    for count in (1, 2, 3):
        found = tokenizer.decode(codes[:, : count * tokenizer.frames])
        expected = decode_itself(codec, levels[:, :count])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0


@torch.no_grad()
def test_a_level_in_part_changes_the_frames_that_have_it(codec: PreTrainedModel) -> None:
    tokenizer = CodecTokenizer(codec, SAMPLES, levels=3)
    codes, frames = tokenizer.encode(sounds()), tokenizer.frames
    seen: list[torch.Tensor] = []
    handle = tokenizer.model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    for drawn in (frames, frames + 2, 2 * frames):
        tokenizer.decode(codes[:, :drawn])
    handle.remove()
    before, partial, after = seen
    assert torch.equal(partial[:, :, :2], after[:, :, :2])
    assert torch.equal(partial[:, :, 2:], before[:, :, 2:])
    assert not torch.equal(before, after)
    tokenizer.decode(codes[:, :1])  # not even one level


@torch.no_grad()
def test_copies_and_configurations(codec: PreTrainedModel) -> None:
    tokenizer = CodecTokenizer(codec, SAMPLES, levels=2)
    codes = tokenizer.encode(sounds())
    copied = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(copied.decode(codes), tokenizer.decode(codes))
    again = CodecTokenizer.from_config(tokenizer.get_config())
    again.load_state_dict(tokenizer.state_dict())
    assert torch.equal(again.encode(sounds()), codes)
    assert codec.encode(sounds()) is not None  # the codec of the caller is as it was


def test_codecs_that_do_not_fit(codec: PreTrainedModel) -> None:
    with pytest.raises(InputError, match=r"levels=99: this codec has \d+; pass 1 to that"):
        CodecTokenizer(codec, SAMPLES, levels=99)
    with pytest.raises(InputError, match="stereo sounds or normalizes loudness"):
        CodecTokenizer(encodec(audio_channels=2), SAMPLES)
    other = LlamaModel(LlamaConfig(vocab_size=8, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(InputError, match="LlamaModel is no known codec; pass one of encodec, dac"):
        CodecTokenizer(other, SAMPLES)
