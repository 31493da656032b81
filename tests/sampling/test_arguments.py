"""Arguments as they come out of numpy, PyTorch and pandas; anything else is refused by name."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sampling_models import ONE_KIND, L, V, sample_shape
from torch import Tensor

from anytime_ar.errors import InputError
from anytime_ar.sampling import AnytimeModel, Budget

KINDS = ["narrow", "wide", "array", "tensor"]
"""Names of parameters, which are the same in every process of a test run."""


@ONE_KIND
@pytest.mark.parametrize(
    "label",
    [
        1,
        "dog",
        np.int64(1),
        np.uint8(1),
        np.array(1),
        np.str_("dog"),
        torch.tensor(1),
        torch.tensor(1, dtype=torch.int32),
        (1, 1),
        ["dog", 1],
        [np.int16(1), torch.tensor(1)],
        np.array([1, 1]),
        np.array(["dog", "dog"]),
        np.array([1, "dog"], dtype=object),
        torch.tensor([1, 1]),
        range(1, 3),
    ],
    ids=lambda label: f"{type(label).__name__} {label!r}",
)
def test_labels(model: AnytimeModel, label: Any) -> None:
    wanted = [1, 2] if isinstance(label, range) else 1
    found = model.sample_codes(2, seed=0, label=label)
    assert torch.equal(found, model.sample_codes(2, seed=0, label=wanted))
    assert torch.equal(model.nll(found, label=label), model.nll(found, label=wanted))


@ONE_KIND
@pytest.mark.parametrize(
    ("label", "message"),
    [
        (1.0, r"label 1.0 is a float; pass a whole number, as an int, or a name"),
        (np.float64(1), r"label 1.0 is a float"),
        (float("nan"), r"label nan is a float"),
        (torch.tensor(1.0), r"label 1.0 is a float"),
        (True, r"label True is a bool"),
        (np.True_, r"label True is a bool"),
        (b"dog", r"label b'dog' is a bytes"),
        (np.array([[1, 1]]), r"1 labels were given for 2 samples"),
        (np.array([[1], [1]]), r"label \[1\] is a list"),
        (np.array([1, 1, 1]), r"3 labels were given for 2 samples; pass one, or 2"),
        ([None, 1], r"label None is a NoneType"),
        (np.int64(3), r"label 3 is unknown; pass a number in 0..2"),
        (torch.tensor(-1), r"label -1 is unknown"),
    ],
)
def test_other_labels(model: AnytimeModel, label: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.sample(2, label=label)


@ONE_KIND
@pytest.mark.parametrize(
    "number",
    [np.int64, np.uint8, np.array, torch.tensor],
    ids=["first", "second", "array", "tensor"],
)
def test_whole_numbers(model: AnytimeModel, number: Any) -> None:
    wanted = model.generate(2, seed=3, first=1, codes=4, min_codes=1, top_k=5)
    names = {"seed": 3, "first": 1, "codes": 4, "min_codes": 1, "top_k": 5}
    found = model.generate(number(2), **{name: number(value) for name, value in names.items()})  # type: ignore[arg-type]
    assert torch.equal(found.codes, wanted.codes)
    assert torch.equal(found.state.refine(codes=number(5)).codes[:, :4], wanted.codes)
    assert Budget(codes=number(4)) == Budget(codes=4)
    previews = model.stream(1, seed=3, previews=[number(1), number(2)])
    assert [preview.codes_drawn for preview in previews] == [1, 2, L]


@ONE_KIND
@pytest.mark.parametrize(
    "number",
    [np.float32, np.float64, np.array, torch.tensor],
    ids=["first", "second", "array", "tensor"],
)
def test_other_numbers(model: AnytimeModel, number: Any) -> None:
    options = {"temperature": 0.5, "top_p": 0.75, "guidance": 2.0}
    wanted = model.sample_codes(2, seed=3, label=1, **options)  # type: ignore[arg-type]
    given = {name: number(value) for name, value in options.items()}
    assert torch.equal(model.sample_codes(2, seed=3, label=1, **given), wanted)
    schedule = model.sample_codes(2, seed=3, temperature=[0.5, 1.0])
    given = {"temperature": np.array([0.5, 1.0])}
    assert torch.equal(model.sample_codes(2, seed=3, **given), schedule)
    assert model.generate(1, deadline_s=number(60.0)).codes_drawn == L


@ONE_KIND
@pytest.mark.parametrize("name", ["n", "seed", "first", "codes", "min_codes"])
@pytest.mark.parametrize("value", [1.0, np.float64(1), True, np.True_, "1", torch.ones(1)], ids=str)
def test_what_is_no_whole_number(model: AnytimeModel, name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^{name}="):
        model.sample(**{name: value})


def as_given(form: str, tensor: Tensor) -> Any:
    array = tensor.numpy()
    read_only = array.copy()
    read_only.setflags(write=False)
    return {
        "tensor": tensor,
        "array": array,
        "list": array.tolist(),
        "read-only": read_only,
        "reversed twice": np.ascontiguousarray(array[::-1])[::-1],
        "big-endian": array.astype(array.dtype.newbyteorder(">")),
        "fortran": np.asfortranarray(array),
        "view": torch.stack([tensor, tensor], -1)[..., 0],
    }[form]


FORMS = ["tensor", "array", "list", "read-only", "reversed twice", "big-endian", "fortran", "view"]


@pytest.mark.parametrize("form", FORMS)
def test_samples_and_codes(model: AnytimeModel, form: str) -> None:
    codes = torch.arange(2 * L).view(2, L) % V
    samples = model.decode(codes)
    assert torch.equal(model.decode(as_given(form, codes)), samples)
    assert torch.equal(model.nll(as_given(form, codes)), model.nll(codes))
    assert torch.equal(model.encode(as_given(form, samples)), model.encode(samples))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_codes_of_other_widths(model: AnytimeModel, dtype: torch.dtype) -> None:
    codes = torch.arange(2 * L).view(2, L) % V
    assert torch.equal(model.decode(codes.to(dtype)), model.decode(codes))
    assert torch.equal(model.decode(codes.to(dtype).numpy()), model.decode(codes))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_samples_of_other_widths(model: AnytimeModel, dtype: torch.dtype) -> None:
    samples = model.sample(2, seed=0).to(dtype)
    wanted = model.encode(samples.float())
    assert torch.equal(model.encode(samples), wanted)
    assert torch.equal(model.encode(samples.numpy()), wanted)


@ONE_KIND
@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((1, L)), "codes are float64; pass whole numbers"),
        (torch.zeros(1, L), "codes are torch.float32; pass torch.int64"),
        (torch.zeros(1, L, dtype=torch.bool), "codes are torch.bool"),
        ([[1, 2], [3]], "codes are no array .*; cut all rows to one length"),
        (
            np.full((1, 1), 2**64 - 1, dtype=np.uint64),
            r"code 18446744073709551615 at \[0, 0\] is out of range",
        ),
        ([["1"]], "codes are <U1; pass whole numbers"),
    ],
)
def test_other_codes(model: AnytimeModel, codes: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.decode(codes)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_not_finite(model: AnytimeModel, value: float) -> None:
    samples = torch.zeros(3, *sample_shape())
    place = (1, *(side - 1 for side in sample_shape()))
    samples[place] = value
    samples[2] = value
    found = rf"cannot encode {value} at \[{', '.join(map(str, place))}\]; replace what is not"
    for given in (samples, samples.numpy(), samples.double()):
        with pytest.raises(InputError, match=found):
            model.encode(given)
    with pytest.raises(InputError, match=found):
        model.bundle.autoencoder.encode(samples)


@ONE_KIND
@pytest.mark.parametrize("samples", [torch.zeros(1, 1, dtype=torch.uint8), np.zeros(3, np.int32)])
def test_samples_that_are_whole_numbers(model: AnytimeModel, samples: Any) -> None:
    with pytest.raises(InputError, match=r"samples are \S+; pass floating-point numbers in"):
        model.encode(samples)


def test_no_samples_at_all(model: AnytimeModel) -> None:
    assert model.encode(torch.zeros(0, *sample_shape())).shape == (0, L)
    assert model.decode(torch.zeros(0, L, dtype=torch.int64)).shape == (0, *sample_shape())
