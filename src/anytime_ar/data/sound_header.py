"""Whether a sound file holds all that its header says.

Programs that write to a pipe cannot go back to fill in sizes, and leave placeholders. So the sizes
in a header are believed only where they are no placeholders; otherwise the bytes that are there
count, and libsndfile, which believes some placeholders, is shown their number instead.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import BinaryIO, Literal, NamedTuple

_MOST_CHUNKS = 4096
_UNKNOWN = (2**31, 0x7F000000, 2**32)
"""Sizes about which placeholders lie; the second is of sox."""
_NEAR = 2**16
_LONGEST_PAGE = 27 + 255 + 255 * 255
"""Of Ogg, in bytes."""


class _Size(NamedTuple):
    """A size in a header."""

    at: int
    width: Literal[4, 8]
    order: Literal["little", "big"]
    beside: int = 0
    """How many bytes it counts besides the samples."""

    def written(self, size: int) -> bytes:
        """How it is stored; the largest number where it does not fit."""
        return min(size + self.beside, 256**self.width - 1).to_bytes(self.width, self.order)


class _File(NamedTuple):
    """What a header is read from."""

    content: BinaryIO
    size: int

    def read(self, at: int, count: int) -> bytes:
        """So many bytes, or those that are there."""
        if at >= self.size:  # a place that no file may have
            return b""
        self.content.seek(at)
        return self.content.read(count)

    def number(self, at: int, width: int, order: Literal["little", "big"]) -> int:
        """A size; 0 beyond the end."""
        return int.from_bytes(self.read(at, width), order)


class _Container(NamedTuple):
    """Where the samples of a file are, by its header."""

    begin: int
    claimed: int
    """Bytes of samples."""
    sizes: tuple[_Size, ...]
    """That count the samples; with `beside` for the rest of the file where they count all."""
    whole: int | None = None
    """Bytes of the file, by the header."""


class Verdict(NamedTuple):
    """What a header is worth."""

    problem: Literal["cut short", "too long"] | None = None
    """`too long`: its sizes have no room for all that is there."""
    corrections: Mapping[int, bytes] = MappingProxyType({})
    """What belongs at which offset, so that all samples are read."""


def judge(content: BinaryIO) -> Verdict:
    """Compare the header of a sound with the bytes that are there."""
    file = _File(content, content.seek(0, io.SEEK_END))
    verdict = _judge(file)
    content.seek(0)
    return verdict


def _judge(file: _File) -> Verdict:
    size, head = file.size, file.read(0, 4)
    if head == b"OggS":
        return Verdict("cut short" if _ends_within_a_page(file) else None)
    container = _read(file, head)
    if container is None:
        return Verdict()
    claimed, there = container.claimed, size - container.begin
    unknown = _is_unknown(claimed) or (claimed == 0 and not _are_chunks(file, container))
    if there <= 0:
        return Verdict("cut short" if claimed > 0 and not _is_unknown(claimed) else None)
    if container.sizes[0].width == 4 and there >= 2**32:
        wrapped = claimed < there and (there - claimed) % 2**32 < _NEAR
        if unknown or wrapped:
            return Verdict("too long")
    if unknown and (claimed == 0 or claimed > there):
        return Verdict(corrections=_corrections(container, there))
    if claimed <= there + 1:  # one that counts the byte of padding
        return Verdict()
    if claimed in (size, size - 8) or container.whole in (size, size + 1):  # miscounted
        return Verdict(corrections=_corrections(container, there))
    return Verdict("cut short")


def _is_unknown(size: int) -> bool:
    return size >= 2**62 or any(abs(size - usual) < _NEAR for usual in _UNKNOWN)


def _corrections(container: _Container, there: int) -> dict[int, bytes]:
    return {size.at: size.written(there) for size in container.sizes}


class Corrected:
    """A file with some bytes of its header replaced, as libsndfile reads it.

    Errors cannot pass through libsndfile: reading ends at one, which is kept.
    """

    def __init__(self, content: BinaryIO, corrections: Mapping[int, bytes]) -> None:
        self._content = content
        self._corrections = corrections
        self._header = max((at + len(new) for at, new in corrections.items()), default=0)
        self._size = content.seek(0, io.SEEK_END)
        self._at = content.seek(0)
        self.failure: OSError | None = None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, or to the end nearest to it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, min(start + offset, self._size))
        return self._at

    def tell(self) -> int:
        """Where reading goes on."""
        return self._at

    def read(self, count: int) -> bytes:
        """So many bytes, or those that are there."""
        start = self._at
        try:
            self._content.seek(start)
            read = self._content.read(count)
        except OSError as error:
            self.failure = error
            return b""
        self._at += len(read)
        return self._corrected(read, start) if start < self._header else read

    def _corrected(self, read: bytes, start: int) -> bytes:
        changed = bytearray(read)
        for at, new in self._corrections.items():
            for place, byte in enumerate(new, at - start):
                if 0 <= place < len(changed):
                    changed[place] = byte
        return bytes(changed)


def _read(file: _File, head: bytes) -> _Container | None:
    if head in (b"RIFF", b"RIFX"):
        return _riff(file, "little" if head == b"RIFF" else "big")
    if head in (b"RF64", b"BW64"):
        return _rf64(file)
    if head == b"FORM":
        return _aiff(file)
    if head in (b".snd", b"dns."):
        return _au(file, "big" if head == b".snd" else "little")
    if head == b"caff":
        return _caf(file)
    if head == b"riff":
        return _w64(file)
    return None


def _chunks(
    file: _File, at: int, order: Literal["little", "big"], width: Literal[4, 8] = 4
) -> Iterator[tuple[bytes, int, int]]:
    """Name, where its size is, and size of each chunk; every one begins at an even place."""
    for _ in range(_MOST_CHUNKS):
        header = file.read(at, 4 + width)
        if len(header) < 4 + width:
            return
        size = int.from_bytes(header[4:], order)
        yield header[:4], at + 4, size
        at += 4 + width + size + (size % 2 if width == 4 else 0)


def _riff(file: _File, order: Literal["little", "big"]) -> _Container | None:
    whole = file.number(4, 4, order) + 8
    for name, at, size in _chunks(file, 12, order):
        if name == b"data":
            begin = at + 4
            sizes = (_Size(at, 4, order), _Size(4, 4, order, beside=begin - 8))
            return _Container(begin, size, sizes, whole)
    return None


def _rf64(file: _File) -> _Container | None:
    """RIFF whose true sizes are in a chunk of their own."""
    long_at = 0
    for name, at, size in _chunks(file, 12, "little"):
        if name == b"ds64":
            long_at = at + 4
        if name == b"data" and long_at:
            begin = at + 4
            claimed = file.number(long_at + 8, 8, "little") if size == 2**32 - 1 else size
            sizes = (
                _Size(long_at, 8, "little", beside=begin - 8),
                _Size(long_at + 8, 8, "little"),
            )
            return _Container(begin, claimed, sizes)
    return None


def _aiff(file: _File) -> _Container | None:
    whole = file.number(4, 4, "big") + 8
    for name, at, size in _chunks(file, 12, "big"):
        if name == b"SSND":
            begin = at + 12  # after two numbers that it counts
            sizes = (_Size(at, 4, "big", beside=8), _Size(4, 4, "big", beside=begin - 8))
            claimed = size if _is_unknown(size) else max(0, size - 8)
            return _Container(begin, claimed, sizes, whole)
    return None


def _au(file: _File, order: Literal["little", "big"]) -> _Container:
    begin, claimed = file.number(4, 4, order), file.number(8, 4, order)
    return _Container(begin, claimed, (_Size(8, 4, order),))


def _caf(file: _File) -> _Container | None:
    for name, at, size in _chunks(file, 8, "big", width=8):
        if name == b"data":  # after the number of edits
            claimed = size if _is_unknown(size) else max(0, size - 4)
            return _Container(at + 12, claimed, (_Size(at, 8, "big", beside=4),))
    return None


def _w64(file: _File) -> _Container | None:
    """Chunks that begin with 16 bytes of name and count their own header, at multiples of 8."""
    at = 40
    for _ in range(_MOST_CHUNKS):
        header = file.read(at, 24)
        if len(header) < 24:
            return None
        size = int.from_bytes(header[16:], "little")
        if header[:4] == b"data":
            begin = at + 24
            sizes = (_Size(at + 16, 8, "little", beside=24), _Size(16, 8, "little", beside=begin))
            claimed = size if _is_unknown(size) else max(0, size - 24)
            return _Container(begin, claimed, sizes)
        at += max(24, -(-size // 8) * 8)
    return None


def _are_chunks(file: _File, container: _Container) -> bool:
    """Whether what follows a chunk of no samples is other chunks, up to the end."""
    order = container.sizes[0].order
    end = container.begin
    for name, at, length in _chunks(file, container.begin, order):
        if not (name.isascii() and name.decode().isprintable()):
            return False
        end = at + 4 + length
    return end > container.begin and abs(end - file.size) <= 1


def _ends_within_a_page(file: _File) -> bool:
    """Whether the last page of an Ogg file goes on beyond its end."""
    tail = file.read(max(0, file.size - _LONGEST_PAGE), _LONGEST_PAGE)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page)
