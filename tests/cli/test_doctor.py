"""`anytime doctor`: complete figures, with and without a kernel."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from anytime_ar.cli import doctor, main
from anytime_ar.errors import EXTRAS
from anytime_ar.kernel import build as compiling
from anytime_ar.kernel import load_kernel, loading

FACTS: dict[str, Any] = {
    "processor": "a processor with a name that is quite long and goes on and on @ 2.00GHz",
    "architecture": "x86_64",
    "instruction_sets": ["sse", "avx2"],
    "cpus": 2,
    "threads": 2,
    "threads_timed_ms": {"2": 10.0, "1": 19.0},
    "torch": "2.13.0",
    "torch_capability": "AVX2",
    "compiler": None,
    "kernel": {"instruction_set": "avx2", "origin": "prebuilt", "problem": None, "settings": {}},
    "prebuilt": ["sse", "avx2"],
    "cache": {"folder": "/home/someone/.cache/anytime-ar", "writable": True},
    "extras": {"train": True, "serve": False},
    "install_extras": "/usr/bin/python -m pip install -e '/home/someone/anytime-ar[serve]'",
    "chosen": {"backend": "native", "precision": "float32", "precision_auto": "int8"},
    "rates": [
        {"backend": "native", "precision": precision, "rows": rows, "codes_per_s": 1000}
        | {"rounds": 3, "spread": 0.05}
        for precision in ("float32", "int8")
        for rows in (1, 64)
    ],
}

NO_KERNEL = {"instruction_set": None, "origin": None, "problem": "none", "settings": {}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # holds no compiled kernel
    monkeypatch.setattr(doctor, "_ROUNDS", 1)
    load_kernel.cache_clear()
    yield
    load_kernel.cache_clear()


def no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANYTIME_KERNEL_ISA", raising=False)
    monkeypatch.setattr(loading, "PREBUILT", tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda _name: None)


def test_without_compiler_and_kernel(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    no_kernel(monkeypatch, tmp_path)
    main(["doctor", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts.keys() == FACTS.keys() | {"advice"}
    assert facts["extras"] == dict.fromkeys(EXTRAS, False)
    assert facts["compiler"] is None
    assert facts["prebuilt"] == []
    assert facts["kernel"]["instruction_set"] is None
    assert "no C++ compiler" in facts["kernel"]["problem"]
    assert facts["chosen"]["precision_auto"] in ("float32", "bfloat16", "int8")
    assert facts["chosen"] | {"precision_auto": ""} == {
        "backend": "portable",
        "precision": "float32",
        "precision_auto": "",
    }
    assert {(r["backend"], r["precision"], r["rows"]) for r in facts["rates"]} == {
        ("portable", precision, rows)
        for precision in ("float32", "bfloat16", "int8")
        for rows in (1, 64)
    }
    assert "wheel with prebuilt kernels" in facts["advice"][0]
    assert facts["kernel"]["problem"] in facts["advice"][0], "JSON has nothing above it"
    assert " -m pip install " in facts["install_extras"]
    assert max(map(len, doctor.report(facts).splitlines())) <= 80


def test_a_setting_that_cannot_be_met_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ANYTIME_KERNEL_ISA", "mmx")
    main(["doctor"])
    printed = capsys.readouterr().out
    assert "ANYTIME_KERNEL_ISA=mmx" in printed
    assert "Unset or correct ANYTIME_KERNEL_ISA" in " ".join(printed.split())
    assert "there is no such instruction set" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"instruction_sets": ["sse", "avx2", "avx512"]}, ["unset it for avx512"]),
        ({"threads": 1}, ["19 ms with 1 thread and 10 ms with 2; OMP_NUM_THREADS=2 is faster"]),
        ({"threads": 1, "threads_timed_ms": {"2": 128.0, "1": 33.0}}, []),
        ({"threads": 1, "threads_timed_ms": {"2": 32.0, "1": 33.0}}, []),
        ({"threads_timed_ms": {"2": 128.0, "1": 33.0}}, ["OMP_NUM_THREADS=1 is faster"]),
        ({"cache": {"folder": "/x", "writable": False}}, ["set XDG_CACHE_HOME"]),
        ({"kernel": NO_KERNEL | {"settings": {"CXX": "x"}}}, ["a C++ compiler"]),
        (
            {"kernel": NO_KERNEL | {"settings": {"ANYTIME_KERNEL_ISA": "avx3"}}},
            ["Unset or correct ANYTIME_KERNEL_ISA"],
        ),
        (
            {"rates": [*FACTS["rates"][:3], {**FACTS["rates"][3], "codes_per_s": 2500}]},
            ['precision="int8" drew 2.5 times as many'],
        ),
    ],
)
def test_advice_is_given_where_it_is_true(changes: dict[str, Any], expected: list[str]) -> None:
    given = doctor.advice(FACTS | changes)
    assert len(given) == len(expected)
    assert all(part in text for part, text in zip(expected, given, strict=True))


def test_the_report_fits_80_columns() -> None:
    report = doctor.report({**FACTS, "advice": doctor.advice(FACTS)})
    assert max(map(len, report.splitlines())) <= 80
    assert "-m pip install -e '/home/someone/anytime-ar[serve]'" in " ".join(
        report.replace("\\\n", "").split()
    )


def test_the_report_speaks_of_one_cpu_and_of_spreads() -> None:
    facts = {**FACTS, "cpus": 1, "threads": 1, "threads_timed_ms": {"1": 19.0}}
    report = doctor.report({**facts, "advice": doctor.advice(facts)})
    assert "1 CPU, 1 thread of PyTorch\n" in report
    assert "median of 3 rounds" in report
    assert "1,000   ± 5 %" in report
    assert "  installed         train\n  missing           serve\n" in report
