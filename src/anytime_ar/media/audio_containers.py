"""Read from the header of an audio file where its samples are, and which sizes count them.

Containers are RIFF (WAV), RF64, AIFF, 8SVX, AU, CAF, W64, and formats of old computers and
samplers. Whether the sizes are right is checked in `anytime_ar.media.audio_header`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Literal, NamedTuple

MAX_CHUNKS = 4096
"""Most chunks of a file that are read."""
_PLACEHOLDER_SIZES = (2**31, 0x7F000000, 2**32)
"""Sizes in bytes that placeholders are close to; the second is that of SoX."""
PLACEHOLDER_TOLERANCE = 2**16
"""Largest distance in bytes of a placeholder from a usual one."""


class _SizeField(NamedTuple):
    """A size field in a header."""

    offset: int
    """Offset of the field in the file, in bytes."""
    width: Literal[4, 8]
    """Width of the field, in bytes."""
    byte_order: Literal["little", "big"]
    extra_bytes: int = 0
    """Bytes that the size counts in addition to the samples, such as headers."""

    def to_bytes(self, size: int) -> bytes:
        """Encode a size of the samples in bytes; the largest number if it does not fit."""
        return min(size + self.extra_bytes, 256**self.width - 1).to_bytes(
            self.width, self.byte_order
        )


class HeaderReader(NamedTuple):
    """A reader of bytes and integers at any offset of a file, or of the end of it."""

    content: BinaryIO
    size: int
    """Size in bytes, from `start` on."""
    start: int = 0
    """Offset in the file from which offsets count."""

    def read(self, at: int, count: int) -> bytes:
        """Read `count` bytes from offset `at`, or fewer at the end of the file."""
        if at >= self.size:  # beyond what a file can seek to
            return b""
        self.content.seek(self.start + at)
        return self.content.read(count)

    def skip(self, count: int) -> HeaderReader:
        """Return a reader of what follows the first `count` bytes."""
        return HeaderReader(self.content, self.size - count, self.start + count)

    def read_int(self, at: int, width: int, order: Literal["little", "big"]) -> int:
        """Read an unsigned integer of `width` bytes; 0 beyond the end."""
        return int.from_bytes(self.read(at, width), order)


class Container(NamedTuple):
    """The position of the samples in a file, as its header declares it."""

    data_start: int
    """Offset of the first sample, in bytes."""
    declared_bytes: int
    """Declared size of the samples, in bytes."""
    size_fields: tuple[_SizeField, ...]
    """Size fields that count the samples, alone or with other bytes (`extra_bytes`). None of them
    is patched where libsndfile does not trust placeholders."""
    declared_file_bytes: int | None = None
    """Declared size of the file, in bytes; None if the header has none."""
    patches: Mapping[int, bytes] = MappingProxyType({})
    """Bytes to replace in chunks before the samples, by offset, so that libsndfile skips them."""
    samples_end: int | None = None
    """Offset after the samples where libsndfile takes the chunks that follow for samples."""


def is_placeholder(size: int) -> bool:
    """Return whether a declared size is a placeholder of a program that could not seek."""
    return size >= 2**62 or any(
        abs(size - usual) < PLACEHOLDER_TOLERANCE for usual in _PLACEHOLDER_SIZES
    )


class _Chunk(NamedTuple):
    """A chunk of a file."""

    name: bytes
    size_offset: int
    """Offset of its size field, in bytes."""
    size: int
    """Size that the header declares, in bytes."""

    @property
    def renaming(self) -> dict[int, bytes]:
        """Return the bytes to replace, by offset, so that libsndfile skips the chunk."""
        return {} if is_chunk_name(self.name) else {self.size_offset - 4: b"JUNK"}


def chunks(
    file: HeaderReader, at: int, order: Literal["little", "big"], width: Literal[4, 8] = 4
) -> Iterator[_Chunk]:
    """Yield the chunks from an offset on.

    Chunks with sizes of 4 bytes begin at even offsets.

    Args:
        file: the file.
        at: offset of the first chunk.
        order: byte order of the sizes.
        width: width of the sizes, in bytes.
    """
    for _ in range(MAX_CHUNKS):
        header = file.read(at, 4 + width)
        if len(header) < 4 + width:
            return
        size = int.from_bytes(header[4:], order)
        yield _Chunk(header[:4], at + 4, size)
        at += 4 + width + size + (size % 2 if width == 4 else 0)


def is_chunk_name(name: bytes) -> bool:
    """Return whether bytes may be the name of a chunk."""
    return len(name) == 4 and name.isascii() and name.decode().isprintable()


def read_container(file: HeaderReader, head: bytes) -> Container | None:
    """Read the header of a known container format; return None for any other."""
    if head in (b"RIFF", b"RIFX"):
        return _riff(file, "little" if head == b"RIFF" else "big")
    if head in (b"RF64", b"BW64"):
        return _rf64(file)
    if head == b"FORM":
        return _svx(file) if file.read(8, 4) in (b"8SVX", b"16SV") else _aiff(file)
    if head in (b".snd", b"dns."):
        return _au(file, "big" if head == b".snd" else "little")
    if head == b"caff":
        return _caf(file)
    if head == b"riff":
        return _w64(file)
    return _read_plain_header(file, head)


def _read_plain_header(file: HeaderReader, head: bytes) -> Container | None:
    """Read a header of a format of old computers and samplers; return None for any other.

    IRCAM, PAF and PVF declare no size.
    """
    if head == b"Crea":
        return _voc(file)
    if head == b"NIST":
        return _nist(file)
    if head == b"2BIT":
        return _avr(file)
    if head == b"ALaw":
        return Container(32, file.read_int(18, 4, "big"), ())
    if head[:2] == b"\xf0\x7e" and head[3:] == b"\x01":
        return _sds(file)
    if head[:2] == b"\x01\x04":  # MPC 2000
        channels = 2 if file.read_int(21, 1, "little") else 1
        return Container(42, 2 * channels * file.read_int(30, 4, "little"), ())
    return None


def _riff(file: HeaderReader, order: Literal["little", "big"]) -> Container | None:
    """Read a RIFF header (WAV): a chunk `data` in a file chunk."""
    whole = file.read_int(4, 4, order) + 8
    patches: dict[int, bytes] = {}
    for chunk in chunks(file, 12, order):
        if chunk.name == b"data":
            at, begin = chunk.size_offset, chunk.size_offset + 4
            sizes = (_SizeField(at, 4, order), _SizeField(4, 4, order, extra_bytes=begin - 8))
            return Container(begin, chunk.size, sizes, whole, patches)
        patches |= chunk.renaming
    return None


def _rf64(file: HeaderReader) -> Container | None:
    """Read an RF64 header: RIFF whose 64-bit sizes are in the chunk `ds64`."""
    long_at = 0
    patches = {0: b"RF64"}  # libsndfile does not know BW64, which is the same
    for chunk in chunks(file, 12, "little"):
        name, at, size = chunk
        if name == b"ds64":
            long_at = at + 4
        if name == b"data" and long_at:
            begin = at + 4
            declared = file.read_int(long_at + 8, 8, "little") if size == 2**32 - 1 else size
            sizes = (
                _SizeField(long_at, 8, "little", extra_bytes=begin - 8),
                _SizeField(long_at + 8, 8, "little"),
            )
            whole = file.read_int(long_at, 8, "little") + 8
            return Container(begin, declared, sizes, whole, patches)
        patches |= chunk.renaming
        if size % 2:  # libsndfile does not skip the byte of padding
            patches[at] = min(size + 1, 2**32 - 1).to_bytes(4, "little")
    return None


def _aiff(file: HeaderReader) -> Container | None:
    """Read an AIFF header: a chunk `SSND` in a file chunk."""
    whole = file.read_int(4, 4, "big") + 8
    patches: dict[int, bytes] = {}
    for chunk in chunks(file, 12, "big"):
        name, at, size = chunk
        if name == b"SSND":
            begin = at + 12  # after two integers that the size counts
            sizes = (
                _SizeField(at, 4, "big", extra_bytes=8),
                _SizeField(4, 4, "big", extra_bytes=begin - 8),
            )
            declared = size if is_placeholder(size) else max(0, size - 8)
            return Container(begin, declared, sizes, whole, patches)
        patches |= chunk.renaming
    return None


def _svx(file: HeaderReader) -> Container | None:
    """Read an 8SVX or 16SV header: a chunk `BODY` in a file chunk."""
    for name, at, size in chunks(file, 12, "big"):
        if name == b"BODY":
            return Container(at + 4, size, ())
    return None


def _voc(file: HeaderReader) -> Container | None:
    """Read a VOC header: blocks with a type of one byte and a size of three."""
    at = file.read_int(20, 2, "little")
    for _ in range(MAX_CHUNKS):
        kind, size = file.read_int(at, 1, "little"), file.read_int(at + 1, 3, "little")
        if kind in (1, 9):  # samples
            return None if size == 2**24 - 1 else Container(at + 4, size, ())
        if kind == 0:  # the end
            return None
        at += 4 + size
    return None


def _nist(file: HeaderReader) -> Container | None:
    """Read a NIST SPHERE header: lines of text after its own size."""
    begin = re.match(rb"NIST_1A\n *(\d{1,9})\n", file.read(0, 32))
    if begin is None:
        return None
    text = file.read(0, min(int(begin[1]), 2**16))
    fields = dict(re.findall(rb"^(\w+) -(?:i|s\d+) (\d{1,15})\s*$", text, re.MULTILINE))
    size = 1
    for name in (b"sample_count", b"channel_count", b"sample_n_bytes"):
        size *= int(fields.get(name, 0))
    return Container(int(begin[1]), size, ())


def _avr(file: HeaderReader) -> Container | None:
    """Read an AVR header: fields at fixed offsets. Some writers count samples of both channels."""
    begin, count = 128, file.read_int(26, 4, "big")
    if is_placeholder(count):
        return None
    size = count * (file.read_int(14, 2, "big") // 8)
    is_stereo = file.read_int(12, 2, "big") != 0 and file.size - begin != size
    return Container(begin, size * (2 if is_stereo else 1), ())


def _sds(file: HeaderReader) -> Container:
    """Read a MIDI sample dump: packets of 127 bytes, which hold 120 bytes of samples."""
    bytes_per_sample = -(-file.read_int(6, 1, "little") // 7)
    parts = file.read(10, 3)
    count = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(parts))
    packets = -(-count * bytes_per_sample // 120)
    return Container(21, packets * 127, ())


def _au(file: HeaderReader, order: Literal["little", "big"]) -> Container:
    """Read an AU header: data offset and size at fixed offsets."""
    begin, declared = file.read_int(4, 4, order), file.read_int(8, 4, order)
    return Container(begin, declared, (_SizeField(8, 4, order),), begin + declared)


def _caf(file: HeaderReader) -> Container | None:
    """Read a CAF header: a chunk `data` with a size of 8 bytes."""
    patches: dict[int, bytes] = {}
    for chunk in chunks(file, 8, "big", width=8):
        name, at, size = chunk
        if name == b"data":  # after the edit count
            declared = size if is_placeholder(size) else max(0, size - 4)
            sizes = (_SizeField(at, 8, "big", extra_bytes=4),)
            return Container(at + 12, declared, sizes, patches=patches)
        patches |= chunk.renaming
    return None


def _w64(file: HeaderReader) -> Container | None:
    """Read a W64 header: chunks with names of 16 bytes, whose sizes count their own header.

    Chunks begin at multiples of 8 bytes.
    """
    at, container = 40, None
    for _ in range(MAX_CHUNKS):
        header = file.read(at, 24)
        if len(header) < 24:
            break
        size = int.from_bytes(header[16:], "little")
        if header[:4] == b"data" and container is None:
            begin = at + 24
            sizes = (
                _SizeField(at + 16, 8, "little", extra_bytes=24),
                _SizeField(16, 8, "little", extra_bytes=begin),
            )
            declared = size if is_placeholder(size) else max(0, size - 24)
            container = Container(begin, declared, sizes)
        at += max(24, -(-size // 8) * 8)
    if container is not None and 0 <= at - file.size < 8:  # chunks go on to the end of the file
        return container._replace(samples_end=container.data_start + container.declared_bytes)
    return container
