"""`anytime bulk`: folders that hold other files or another job."""

from __future__ import annotations

from PIL import Image

from anytime_ar.cli import main
from cli.command_line import add, refused


def test_system_files_are_no_job(measured, tmp_path):
    out = tmp_path / "shards"
    out.mkdir()
    (out / ".DS_Store").write_bytes(b"")
    run = str(measured / "run")
    main(["bulk", "sample", run, "-n", "2", "--out", str(out), "--seed", "1"])
    assert (out / "manifest.json").is_file()


def test_shards_of_data_that_changed_are_no_mixture(measured, tmp_path, capsys):
    add(tmp_path / "data" / "a", 0, 20)
    job = [
        "bulk",
        "encode",
        str(measured / "run"),
        "--data",
        str(tmp_path / "data"),
        "--device",
        "cpu",
    ]
    job += ["--out", str(tmp_path / "shards"), "--shard-size", "5"]
    main(job)
    Image.new("L", (8, 8), 9).save(tmp_path / "data" / "a" / "zz.png")
    (tmp_path / "data" / "a" / "00.png").unlink()  # as many as before
    (line,) = refused(job, capsys)
    assert "holds another job: data_fingerprint is 20 files of" in line
