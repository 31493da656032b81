"""Commands in odd surroundings: streams that are closed, full or narrow, limits, early Ctrl-C, and
words that are no numbers. One clear line and a documented exit code, and no result is lost."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from anytime_ar.cli import console, main
from anytime_ar.cli.console import (
    EXIT_CODES,
    FAILED,
    INTERNAL_ERROR,
    OUTPUT_FAILED,
    SafeStream,
    describe_error,
    install_message_format,
)
from anytime_ar.cli.main import COMMANDS
from anytime_ar.errors import InputError, TrainingError
from anytime_ar.runtime.files import cache_folder, process_temporary_folder, read_text


def code_of(arguments: list[str]) -> int:
    """The exit code of a command."""
    try:
        main(arguments)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


def in_a_process(script: str, **options) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(command, text=True, timeout=600, check=False, **options)


DECODE = ["decode", "mnist", *["1"] * 4, "--device", "cpu", "--out"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_stream_loses_no_result(stream, tmp_path, monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, stream, full)
        code = code_of([*DECODE, str(tmp_path / "a.png")])
        assert (tmp_path / "a.png").is_file()
        if stream == "stdout":
            assert code == OUTPUT_FAILED
            assert capsys.readouterr().err == (
                "anytime: done, but standard output cannot be written: No space left on device\n"
            )
        else:
            assert code == 0
            assert code_of(["decode", "mnist", "--out"]) == 2  # with nobody to tell


@pytest.mark.parametrize("missing", [("stdout",), ("stderr",), ("stdout", "stderr")])
def test_streams_that_are_none(missing, tmp_path, monkeypatch):
    for stream in missing:
        monkeypatch.setattr(sys, stream, None)
    assert code_of([*DECODE, str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").is_file()
    assert code_of(["decode", "mnist", "5000", "--out", str(tmp_path / "b.png")]) == 2
    assert all(getattr(sys, stream) is None for stream in missing)


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-16", "utf-8"])
def test_a_narrow_encoding_gets_escapes(encoding, tmp_path, monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
    out = tmp_path / "日本é.png"
    assert code_of([*DECODE, str(out)]) == 0
    assert out.is_file()
    sys.stdout.flush()
    told = raw.getvalue().decode(encoding)
    expected = {"ascii": "\\u65e5\\u672c\\xe9.png", "cp1252": "\\u65e5\\u672cé.png"}
    assert expected.get(encoding, "日本é.png") in told


def test_names_that_are_no_text_are_written_with_escapes():
    raw = io.BytesIO()
    output = SafeStream(io.TextIOWrapper(raw, "utf-8"))
    output.write("a\udcff.png\n")
    output.flush()
    assert raw.getvalue() == b"a\\udcff.png\n"


@pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX")
@pytest.mark.parametrize(
    ("where", "code"), [(">&-", 0), ("2>&-", 0), (">/dev/full", OUTPUT_FAILED), ("<&- >&- 2>&-", 0)]
)
def test_streams_of_a_process(where, code):
    shell = f'exec "$0" -m anytime_ar --help {where}'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable], capture_output=True, text=True, check=False
    )
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="descriptors of POSIX")
def test_no_file_gets_the_number_of_a_closed_stream():
    """What a library prints would be written into it."""
    script = (
        "import os, sys\n"
        "for number in (0, 1): os.close(number)\n"
        "from anytime_ar.cli.console import reserve_standard_descriptors\n"
        "reserve_standard_descriptors()\n"
        "sys.exit(os.open('/dev/null', os.O_RDONLY))\n"
    )
    assert in_a_process(script, stderr=subprocess.PIPE).returncode > 2


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_importing_ends_with_one_line():
    script = (
        "import signal, sys\n"
        "from anytime_ar.cli import main\n"
        "def load(name):\n"
        "    try:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
        "    except BaseException as error:  # as libraries do\n"
        "        raise ImportError from error\n"
        "sys.modules['anytime_ar.cli.main']._import_command = load\n"
        "sys.argv = ['anytime', 'sample', 'mnist']\n"
        "main()\n"
    )
    done = in_a_process(script, capture_output=True)
    assert (done.returncode, done.stderr) == (130, "anytime: interrupted\n")


def test_a_caller_keeps_its_handlers_and_streams():
    before = signal.getsignal(signal.SIGINT), sys.stdout, sys.stderr
    main([])
    assert (signal.getsignal(signal.SIGINT), sys.stdout, sys.stderr) == before


def test_the_overview_and_the_docs_name_every_exit_code(capsys, monkeypatch):
    main([])
    told = capsys.readouterr().out
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "how-to" / "use-in-scripts.md").read_text(encoding="utf-8")
    monkeypatch.syspath_prepend(docs / "build")
    reference = runpy.run_path(str(docs / "build" / "cli.py"))["page"]()
    cells = re.findall(r"^\| ([\d, ]+) \|", page, re.MULTILINE)
    listed = {int(code) for cell in cells for code in cell.split(",")}
    assert listed == {*EXIT_CODES, 143}
    for code, what in EXIT_CODES.items():
        assert f"  {code} " in told
        assert what in told
        assert f"| `{code}` | {what} |" in reference
    assert all(f"\n## anytime {name}\n" in reference for name in COMMANDS)


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("no"), 2, "no"),
        (TrainingError("no"), FAILED, "no"),
        (MemoryError(), FAILED, "not enough memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), FAILED, "not enough memory"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:119] can't allocate memory: you tried"),
            FAILED,
            "ulimit -v",
        ),
        (ImportError("libx.so: failed to map segment from shared object"), FAILED, "memory"),
        (RuntimeError("can't start new thread"), FAILED, "ulimit -u"),
        (OSError(errno.EMFILE, "Too many open files", "a"), FAILED, "ulimit -n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), FAILED, "a.png: No space"),
        (PermissionError(errno.EACCES, "Permission denied", b"a.png"), FAILED, "a.png: Perm"),
        (
            UnicodeEncodeError("latin-1", "日", 0, 1, "no"),
            2,
            "'\\u65e5' cannot be written in latin-1",
        ),
        (ModuleNotFoundError("no", name="numpy"), FAILED, "the package numpy is missing"),
        (ModuleNotFoundError("no", name="scipy.signal"), 2, "this command needs scipy of "),
        (OverflowError("too large for a C long"), 2, "a number is too large"),
        (RecursionError("maximum"), 2, "nested too deeply"),
        (
            ValueError("odd\nand odder"),
            INTERNAL_ERROR,
            "an internal error of anytime-ar: ValueError: odd; set",
        ),
    ],
)
def test_every_error_has_a_line_and_a_documented_code(error, code, said):
    text, found = describe_error(error)
    assert found == code
    assert found in EXIT_CODES
    assert said in text
    assert "\n" not in text


def test_a_mistake_of_ours_shows_its_place_when_asked(monkeypatch, capsys):
    def fail(_):
        raise RuntimeError("what nobody foresaw")

    monkeypatch.setattr("anytime_ar.cli.decode.run", fail)
    assert code_of([*DECODE, "a.png"]) == INTERNAL_ERROR
    assert "Traceback" not in capsys.readouterr().err
    monkeypatch.setenv("ANYTIME_TRACEBACK", "1")
    assert code_of([*DECODE, "a.png"]) == INTERNAL_ERROR
    assert "Traceback" in capsys.readouterr().err


def test_without_a_home_and_a_place_for_temporary_files(monkeypatch):
    def nothing(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.mkdtemp", nothing)
    process_temporary_folder.cache_clear()
    folder = cache_folder()
    assert not (folder / "costs.json").is_file()
    with pytest.raises(OSError, match=r"ot a directory|exist"):
        folder.mkdir(parents=True)


def test_text_in_the_encodings_of_editors(tmp_path):
    path = tmp_path / "a.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text("name: café\n", encoding=encoding)
        assert read_text(path) == "name: café\n"
    path.write_bytes(b"a: 1\nname: caf\xe9\n")
    with pytest.raises(InputError, match=r"a.yaml, line 2: is not UTF-8 text \(byte 0xe9\); save"):
        read_text(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_configuration_in_the_encodings_of_editors(encoding, tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("name: café\n", encoding=encoding)
    assert code_of(["train", str(tmp_path / "mine.yaml"), "--print-config"]) == 0
    assert "name: caf" in capsys.readouterr().out
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    for arguments in (["train", str(tmp_path / "latin.yaml")], ["train-classifier", "--config"]):
        assert code_of([*arguments, str(tmp_path / "latin.yaml")][:3]) == 2
        assert "latin.yaml, line 1: is not UTF-8 text" in capsys.readouterr().err


WORDS = ["²", "99999999999999999999", "-99999999999999999999", "1e999", "nan", "-1", "", "0x10"]
OPTIONS = {
    "sample": [
        *["-n", "--codes", "--label", "--seed", "--deadline-s", "--quality", "--min-codes"],
        *["--temperature", "--top-k", "--top-p", "--guidance", "--columns", "--threads"],
    ],
    "decode": ["--codes", "--columns", "--threads"],
    "encode": ["--threads"],
    "bulk encode": ["--threads", "--shard-size", "--batch-size"],
    "evaluate": ["--num-samples", "--seed", "--codes"],
}
POSITIONAL = {
    "sample": [],
    "decode": ["1", "2"],
    "encode": ["nothing.png"],
    "bulk encode": ["--data", "nothing", "--out", "shards"],
    "evaluate": ["--feature-extractor", "nothing"],
}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 100_000, "64 within each other"),
        ('{"a":' * 50_000, "64 within each other"),
        ("a: &a [*a, *a]\n", "aliases counted as what they stand for"),
        ("a: [1\n b: 2", "is not YAML"),
        ("- 1\n", "odd.yaml: holds no settings"),
        ("", "no/where"),
    ],
)
def test_odd_configurations(text, said, tmp_path, capsys):
    (tmp_path / "odd.yaml").write_text(text)
    code = code_of(["train", str(tmp_path / "odd.yaml"), "--data.name", "./no/where"])
    told = capsys.readouterr().err
    assert code == 2
    assert said in told
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize("command", OPTIONS)
def test_words_that_are_no_numbers(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = [*command.split(), "mnist", *POSITIONAL[command]]
    for option in OPTIONS[command]:
        for word in WORDS:
            if option in ("--threads", "-n") and word.startswith("9"):
                continue  # a wish that is only too large
            code = code_of([*arguments, f"{option}={word}" if option[1] == "-" else f"-n{word}"])
            told = capsys.readouterr().err
            assert code in (0, 1, 2), (option, word, told)
            assert len(told.splitlines()) <= 1 or code == 0, (option, word, told)


@pytest.mark.parametrize("batches", ["[]", "[0]", "²", "[²]"])
def test_batches_that_are_none(batches, capsys):
    assert code_of(["bench", "mnist", f"--batch-sizes={batches}"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "codes",
    [
        ["99999999999999999999", "1"],
        ["--", "--5"],
        [""],
        [" "],
        ["²"],
        ["-1"],
        ["9" * 5000],
        ["1,,2"],
    ],
)
def test_words_that_are_no_codes(codes, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = code_of(["decode", "mnist", *codes])
    assert code == (0 if codes == ["1,,2"] else 2)
    assert code == 0 or len(capsys.readouterr().err.splitlines()) == 1


def test_our_warnings_and_logs_look_like_other_messages(monkeypatch, capsys):
    theirs = []
    monkeypatch.setattr(warnings, "showwarning", lambda *told: theirs.append(told))
    logger = logging.getLogger("anytime_ar")
    monkeypatch.setattr(logger, "handlers", [])
    install_message_format()
    warn = UserWarning("drawing without\n  the kernel")
    warnings.showwarning(warn, UserWarning, console.__file__, 3)
    logging.getLogger("anytime_ar.kernel.build").warning("compiling")
    assert capsys.readouterr().err == "anytime: drawing without the kernel\nanytime: compiling\n"
    told = UserWarning("theirs"), UserWarning, "/elsewhere/module.py", 3
    warnings.showwarning(*told)
    assert theirs == [told]


def test_a_package_that_is_broken_is_no_internal_error():
    text, code = describe_error(ImportError("DLL load failed: no such file\nmore", name="x._y"))
    assert text.startswith("an installed package cannot be imported (DLL load failed: no such file")
    assert code == 1
    own = ImportError("cannot import name 'x'", name="anytime_ar.media")
    assert describe_error(own)[0].startswith("an internal error of anytime-ar")
