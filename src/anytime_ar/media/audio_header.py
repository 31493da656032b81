"""Check whether an audio file holds the samples that its header declares, and no others.

Programs that write to a pipe cannot seek back to fill in sizes, and leave placeholders. A declared
size is therefore trusted unless it is a placeholder. Otherwise the bytes in the file count.
libsndfile trusts some placeholders, so it reads a patched header with the actual size.

libsndfile reads one sound per file. Sounds that are joined with `cat`, or the parts of a recorded
stream, are therefore found by the headers of the later ones.

libsndfile tells formats apart by the first bytes. What precedes them is therefore skipped: tags,
and the rest of a frame at which an MP3 was cut. It also stops at chunks whose names are not ASCII,
so that they are given another name.
"""

from __future__ import annotations

import io
import re
from bisect import bisect_left
from collections.abc import Mapping
from types import MappingProxyType
from typing import BinaryIO, Literal, NamedTuple

from anytime_ar.media.audio_containers import (
    MAX_CHUNKS,
    PLACEHOLDER_TOLERANCE,
    Container,
    HeaderReader,
    chunks,
    is_chunk_name,
    is_placeholder,
    read_container,
)

_HEAD_BYTES = 1 << 16
"""Bytes at the start of a file that tell its format, and in which an MP3 has a tag."""
_MAX_OGG_PAGE_BYTES = 27 + 255 + 255 * 255
"""Largest size of an Ogg page, in bytes."""
_MAX_JUNK_BYTES = 1024
"""Most bytes of unknown content that may follow the samples."""
_SCAN_BYTES = 1 << 20
"""Bytes that are searched at once."""
_MAX_SIGNATURE_BYTES = 64
"""Most bytes that a match of the next patterns has."""
_OGG_STREAM = re.compile(rb"OggS\0[\x02\x06]")
"""First page of an Ogg stream."""
_FLAC_STREAM = re.compile(rb"fLaC[\0\x80]\0\0\x22")
"""Start of a FLAC file, with the length of its first block."""
_MP3_TAG = re.compile(rb"\xff[\xe0-\xff]..\0{9}(?:\0{8})?(?:\0{15})?(?:Xing|Info)\0\0\0", re.DOTALL)
"""MP3 frame with the length of the file, up to the flags that say what it counts."""
_MPEG_SYNC = re.compile(rb"\xff(?=[\xe2-\xe7\xf2-\xf7\xfa-\xff])")
"""Start of a frame of MPEG audio, of a version and a layer that exist."""
_MPEG_BIT_RATES = {
    (1, 1): range(32, 449, 32),
    (1, 2): (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
"""Bit rates in kbit/s from index 1 on, by version and layer."""
_MIN_MP3_FRAME_BYTES = 24
"""Size of the smallest frame of an MP3, in bytes."""
_MAX_BYTES_BEFORE_MP3 = 1 << 18
"""Bytes in which the first frame of an MP3 is searched."""
_MAX_MP3_MISCOUNT_BYTES = 4096
"""Most bytes that the tag of an MP3 may leave out; some writers do not count its own frame."""
_ANY_FILE = re.compile(
    rb"(?:RIFF|RIFX|RF64|BW64)....WAVE|FORM....(?:AIF[FC]|8SVX|16SV)|fLaC[\0\x80]\0\0\x22"
    rb"|OggS\0[\x02\x06]|caff\0\x01|riff\x2e\x91\xcf\x11|\.snd\0\0|dns\..{2}\0\0"
    rb"|Creative Voice File\x1a",
    re.DOTALL,
)
"""Start of an audio file."""
_TAG_OR_TEXT = re.compile(rb"ID3|APET|TAG|LYRI|(?:[\t\n\r -~]|[\xc2-\xf4][\x80-\xbf]{1,3}){512}")
"""Start of tags and of text, such as XMP, that may follow the samples."""
_METADATA_CHUNK = re.compile(
    rb"LIST|list|INFO|[Ii][Dd]3 |bext|iXML|_PMX|axml|cart|chna|umid|cue |smpl|inst|acid|plst|PEAK"
    rb"|fact|DISP|JUNK|junk|PAD |FLLR|NAME|AUTH|ANNO|\(c\) |COMT|MARK|INST|MIDI|APPL|SAUR"
)
"""Usual names of chunks that are no samples."""
_OGG_AUDIO = (b"\x01vorbis", b"OpusHead", b"\x7fFLAC", b"Speex   ", b"PCM     ", b"CELT    ")
"""First bytes of an Ogg stream of audio."""
_WAV_CODECS = (0x01, 0x02, 0x03, 0x06, 0x07, 0x11, 0x31, 0x40, 0x55, 0xFFFE)
"""Codecs of WAV that libsndfile reads."""
_OTHER_FORMATS = (
    (rb"OggS.{22}(?:\x01.|\x02..)\x7fFLAC", "Ogg FLAC"),
    (rb"OggS.{22}\x01.Speex   ", "Ogg Speex"),
    (rb"OggS.{22}\x01.PCM     ", "Ogg PCM"),
    (rb"OggS.{22}\x01.CELT    ", "Ogg CELT"),
    (rb"OggS.{22}\x01.(?!\x01vorbis|OpusHead)", "Ogg without a sound"),
    (rb"....ftyp", "MP4 (AAC or ALAC)"),
    (rb"\xff[\xf0\xf1\xf8\xf9]|ADIF", "AAC"),
    (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "WMA"),
    (rb"\x1a\x45\xdf\xa3", "Matroska or WebM"),
    (rb"#!AMR", "AMR"),
    (rb"\x0b\x77", "AC-3"),
    (rb"wvpk", "WavPack"),
    (rb"TTA[12]", "TTA"),
    (rb"MAC ", "Monkey's Audio"),
    (rb"MP\+|MPCK", "Musepack"),
    (rb"DSD |FRM8", "DSD"),
    (rb"MThd", "MIDI"),
    (rb"FLV\x01", "FLV"),
    (rb"\0\0\x01[\xb3\xba]", "MPEG video"),
    (rb"RIFF....AVI ", "AVI"),
    (rb"PK\x03\x04", "a ZIP archive"),
)
"""Patterns of the first bytes of formats that libsndfile does not read, and their names."""


class HeaderCheck(NamedTuple):
    """The result of checking a header."""

    problem: Literal["cut short", "too long", "several sounds", "more data"] | None = None
    """`cut short`: samples are missing. `too long`: a size field is too small for the file.
    `several sounds`: there is another sound beside or after the first. `more data`: something
    follows the samples that may be more samples."""
    patches: Mapping[int, bytes] = MappingProxyType({})
    """Bytes to replace in the header, by offset from `start`, so that all samples are read."""
    start: int = 0
    """Offset at which the sound begins, after tags, or after what an MP3 has before its frames."""
    end: int | None = None
    """Offset from `start` at which libsndfile has to stop; None if it finds the end."""
    prefix: bytes = b""
    """Bytes to read before those from `start` on: a tag for an MP3 without one."""


def check_header(content: BinaryIO) -> HeaderCheck:
    """Compare an audio file's header with the bytes in the file."""
    file = _skip_tags(content)
    head = file.read(0, 4)
    if head == b"OggS":
        result = _check_ogg(file)
    elif head == b"fLaC":
        result = _several_if(_contains(file, _flac_frames_start(file), _FLAC_STREAM))
    elif (container := read_container(file, head)) is not None:
        result = _check_sizes(file, container)
        if result.problem is None:
            result = _check_rest(file, container, result)
            patches = {**container.patches, **result.patches}
            result = result._replace(patches=patches, end=container.samples_end)
    else:
        file = file.skip(_find_mpeg_frames(file))
        result = _several_if(_has_frames_after_mp3(file))._replace(prefix=_missing_tag(file))
    content.seek(0)
    return result._replace(start=file.start + result.start)


def name_unread_format(head: bytes) -> str | None:
    """Return the name of a format that libsndfile does not read; None: it is none of those.

    Args:
        head: the first bytes of the sound; see `HeaderCheck.start`.
    """
    if head.startswith((b"RIFF", b"RIFX")):
        order: Literal["little", "big"] = "little" if head.startswith(b"RIFF") else "big"
        file = HeaderReader(io.BytesIO(head), len(head))
        for name, at, _ in chunks(file, 12, order):
            codec = file.read_int(at + 4, 2, order)
            if name == b"fmt " and codec not in (0, *_WAV_CODECS):
                return f"WAV with codec 0x{codec:04X}"
    names = (name for magic, name in _OTHER_FORMATS if re.match(magic, head, re.DOTALL))
    return next(names, None)


def _skip_tags(content: BinaryIO) -> HeaderReader:
    """Return a reader of what follows the ID3v2 tags at the start of a file."""
    file = HeaderReader(content, content.seek(0, io.SEEK_END))
    for _ in range(MAX_CHUNKS):
        end = _id3_end(file, 0)
        if not 0 < end < file.size:
            break
        file = file.skip(end)
    return file


def _several_if(several: bool) -> HeaderCheck:
    """Return the result for a file that may hold several sounds."""
    return HeaderCheck("several sounds" if several else None)


def _check_ogg(file: HeaderReader) -> HeaderCheck:
    """Check that an Ogg file holds one audio stream, up to the end of a page.

    Returns:
        The check, with the first page of that stream as start: libsndfile looks at no later one.
    """
    at, starts = 0, []
    for _ in range(MAX_CHUNKS):  # the first pages of all streams come before other pages
        page = file.read(at, _MAX_OGG_PAGE_BYTES)
        if not _OGG_STREAM.match(page) or len(page) < 27:
            break
        begin = 27 + page[26]
        if page[begin:].startswith(_OGG_AUDIO):
            starts.append(at)
        at += begin + sum(page[27:begin])
    if len(starts) > 1 or _contains(file, at, _OGG_STREAM):
        return HeaderCheck("several sounds")
    problem: Literal["cut short"] | None = "cut short" if _ends_within_ogg_page(file) else None
    return HeaderCheck(problem, start=starts[0] if starts else 0)


def _check_rest(file: HeaderReader, container: Container, result: HeaderCheck) -> HeaderCheck:
    """Check that no sound follows the samples of a container whose sizes are right or patched.

    Args:
        file: the file.
        container: what its header declares.
        result: result of the check of the sizes, to be returned if there is nothing else.
    """
    if result.patches:  # the samples go on to the end of the file, with other headers among them
        return _several_if(True) if _contains(file, container.data_start, _ANY_FILE) else result
    end = container.data_start + container.declared_bytes
    if _contains(file, end, _ANY_FILE):
        return HeaderCheck("several sounds")
    return HeaderCheck("more data") if _has_unknown_rest(file, container, end) else result


def _has_unknown_rest(file: HeaderReader, container: Container, end: int) -> bool:
    """Return whether data that may be more samples follows the samples.

    Chunks, tags, text and one repeated byte are none. Neither is what the size of the file counts:
    who wrote that size knew of it. CAF and W64, whose chunks have other headers, are not checked.

    Args:
        file: the file.
        container: what its header declares.
        end: offset after the declared samples.
    """
    whole = container.declared_file_bytes
    if whole is None or file.size - end <= _MAX_JUNK_BYTES:
        return False
    if whole >= file.size and not is_placeholder(whole - 8):
        return False
    for begin in (end, end + 1):  # some writers leave out the byte of padding
        at = _chunks_end(file, container, begin, any_name=False)
        next_bytes = file.read(at, 4096)
        if file.size - at <= _MAX_JUNK_BYTES or _TAG_OR_TEXT.match(next_bytes):
            return False
        if _METADATA_CHUNK.match(next_bytes):  # it is cut
            return False
        if not _contains(file, at, re.compile(b"[^" + re.escape(next_bytes[:1]) + b"]")):
            return False
        if _is_chunk_sequence(file, container, at, any_name=True):
            return False
    return True


def _contains(file: HeaderReader, start: int, pattern: re.Pattern[bytes]) -> bool:
    """Return whether the file has a match of a pattern from an offset on."""
    return _find(file, start, pattern) is not None


def _find(file: HeaderReader, start: int, pattern: re.Pattern[bytes]) -> int | None:
    """Return the offset of the first match of a pattern from an offset on; None: there is none."""
    for at in range(start, file.size, _SCAN_BYTES):
        if found := pattern.search(file.read(at, _SCAN_BYTES + _MAX_SIGNATURE_BYTES)):
            return at + found.start()
    return None


def _find_mpeg_frames(file: HeaderReader) -> int:
    """Return the offset of the first three frames of MPEG audio in a row, or two at the end.

    Returns:
        0 if there are none, and if the file begins with a frame or is of a known other format.
    """
    if _mpeg_frame_bytes(file.read(0, 4)) or name_unread_format(file.read(0, _HEAD_BYTES)):
        return 0
    for sync in _MPEG_SYNC.finditer(file.read(0, _MAX_BYTES_BEFORE_MP3)):
        at, count, kinds = sync.start(), 0, set()
        while count < 3 and (size := _mpeg_frame_bytes(header := file.read(at, 4))):
            kinds.add((header[1] & 0x1E, header[2] & 0x0C))  # version, layer and sample rate
            at += size
            count += 1
        if len(kinds) == 1 and (count == 3 or (count == 2 and at >= file.size)):
            return sync.start()
    return 0


def _mpeg_frame_bytes(header: bytes) -> int:
    """Return the size in bytes of a frame of MPEG audio; 0 if its header of 4 bytes is none."""
    if len(header) < 4 or not _MPEG_SYNC.match(header):
        return 0
    version_bits, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bit_rate, sample_rate = header[2] >> 4, header[2] >> 2 & 3
    if bit_rate in (0, 15) or sample_rate == 3:  # 0 is a rate that the header does not tell
        return 0
    version = 1 if version_bits == 3 else 2  # 2.5 has the bit rates of 2
    bits = 1000 * _MPEG_BIT_RATES[version, layer][bit_rate - 1]
    rate = (44_100, 48_000, 32_000)[sample_rate] >> (3 - version_bits + 1) // 2
    padding = header[2] >> 1 & 1
    if layer == 1:
        return (384 // 32 * bits // rate + padding) * 4
    return (576 if layer == 3 and version == 2 else 1152) // 8 * bits // rate + padding


def has_mp3_tag(head: bytes) -> bool:
    """Return whether the first frame of an MP3 is a tag, which declares its length.

    Args:
        head: the first bytes of the sound; see `HeaderCheck.start`.
    """
    return any(tag in head[:_MAX_SIGNATURE_BYTES] for tag in (b"Xing", b"Info", b"VBRI"))


def _missing_tag(file: HeaderReader) -> bytes:
    """Return the frame of a tag for an MP3 without one; empty if it has one or is none.

    Without a tag, libsndfile stops after as many samples as the file would have if all of its
    frames were as large as the first. The tag declares more frames than the file can have.
    """
    head = file.read(0, _MAX_SIGNATURE_BYTES)
    is_layer_3 = len(head) > 4 and head[1] >> 1 & 3 == 1
    if not (is_layer_3 and _mpeg_frame_bytes(head)) or has_mp3_tag(head):
        return b""
    is_version_1, is_mono = head[1] >> 3 & 3 == 3, head[3] >> 6 == 3
    side_information = (17 if is_mono else 32) if is_version_1 else (9 if is_mono else 17)
    most = min(file.size // _MIN_MP3_FRAME_BYTES + 1, 2**31 - 1)
    tag = bytes(side_information) + b"Xing" + (1).to_bytes(4, "big") + most.to_bytes(4, "big")
    for bit_rate in range(1, 15):  # the lowest one whose frames are large enough
        header = bytes([0xFF, head[1] | 1, bit_rate << 4 | head[2] & 0x0C, head[3]])
        size = _mpeg_frame_bytes(header)
        if size >= len(header + tag):
            break
    return (header + tag).ljust(size, b"\0")


def _has_frames_after_mp3(file: HeaderReader) -> bool:
    """Return whether an MP3 has more frames than its tag counts: libsndfile reads no others.

    All frames of an MP3 without a tag are read.
    """
    tag = _find(file, 0, _MP3_TAG)
    if tag is None:
        return False
    if _contains(file, tag + 1, _MP3_TAG):
        return True
    found = _MP3_TAG.match(file.read(tag, _MAX_SIGNATURE_BYTES))
    assert found is not None
    after_flags = tag + found.end() + 1
    flags = file.read_int(after_flags - 4, 4, "big")
    size = file.read_int(after_flags + (4 if flags & 1 else 0), 4, "big") if flags & 2 else 0
    end = _id3_end(file, tag + size)
    more = size > 0 and file.size - end > _MAX_MP3_MISCOUNT_BYTES
    return more and _MPEG_SYNC.match(file.read(end, 2)) is not None


def _id3_end(file: HeaderReader, start: int) -> int:
    """Return the offset after the ID3v2 tag at an offset; the offset itself if there is none."""
    head = file.read(start, 10)
    if len(head) < 10 or head[:3] != b"ID3":
        return start
    size = sum((byte & 0x7F) << (7 * i) for i, byte in enumerate(reversed(head[6:])))
    return start + 10 + size


def _flac_frames_start(file: HeaderReader) -> int:
    """Return the offset of the first frame of a FLAC file, after its blocks of metadata."""
    at = 4
    for _ in range(MAX_CHUNKS):
        header = file.read_int(at, 4, "big")
        at += 4 + (header & 0xFFFFFF)
        if header >> 31:
            break
    return at


def _check_sizes(file: HeaderReader, container: Container) -> HeaderCheck:
    """Compare the declared sizes with the file's; tolerate placeholders and known miscounts."""
    size = file.size
    declared, there = container.declared_bytes, size - container.data_start
    unknown = is_placeholder(declared) or (
        declared == 0
        and bool(container.size_fields)
        and not _is_chunk_sequence(file, container, container.data_start, any_name=False)
    )
    if there <= 0:
        return HeaderCheck("cut short" if declared > 0 and not is_placeholder(declared) else None)
    if not container.size_fields:
        return HeaderCheck("cut short" if declared > there + 1 and not unknown else None)
    if container.size_fields[0].width == 4 and there >= 2**32:
        wrapped = declared < there and (there - declared) % 2**32 < PLACEHOLDER_TOLERANCE
        if unknown or wrapped:
            return HeaderCheck("too long")
    if unknown and (declared == 0 or declared > there):
        return HeaderCheck(patches=_size_patches(container, there))
    if declared <= there + 1:  # the size may count the byte of padding
        return HeaderCheck()
    if declared in (size, size - 8) or container.declared_file_bytes in (
        size,
        size + 1,
    ):  # a known miscount
        return HeaderCheck(patches=_size_patches(container, there))
    return HeaderCheck("cut short")


def _size_patches(container: Container, there: int) -> dict[int, bytes]:
    """Return the bytes of each size field for the actual size of the samples, by offset."""
    return {size.offset: size.to_bytes(there) for size in container.size_fields}


class PatchedFile:
    """The part of a file that holds the sound, for libsndfile, with some bytes replaced.

    An error cannot pass through libsndfile, so reading ends there and `failure` holds the error.

    Args:
        content: the file.
        check: where the sound begins and ends, and what to replace: at most 8 bytes at once.
    """

    def __init__(self, content: BinaryIO, check: HeaderCheck) -> None:
        """Go to the start of the sound."""
        self._content = content
        self._check = check
        self._offsets = sorted(check.patches)
        rest = content.seek(0, io.SEEK_END) - check.start
        self.size = len(check.prefix) + (rest if check.end is None else min(check.end, rest))
        """Size in bytes."""
        self._position = 0
        self.failure: OSError | None = None
        """Error that ended reading; None if there is none."""

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Seek to an offset, limited to the start and end of the file, and return it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(0, min(start + offset, self.size))
        return self._position

    def tell(self) -> int:
        """Return the current offset, in bytes."""
        return self._position

    def head(self) -> bytes:
        """Return the first `_HEAD_BYTES` bytes, without replacements."""
        self._content.seek(self._check.start)
        return self._content.read(_HEAD_BYTES)

    def read(self, count: int) -> bytes:
        """Read `count` bytes, or fewer at the end of the file or at an error."""
        begin, end = self._position, min(self._position + count, self.size)
        prefix = self._check.prefix
        read = prefix[begin:end]
        start = max(0, begin - len(prefix))
        try:
            self._content.seek(self._check.start + start)
            stored = self._content.read(max(0, end - len(prefix) - start))
        except OSError as error:
            self.failure = error
            return b""
        self._position += len(read) + len(stored)
        first = bisect_left(self._offsets, start - 7)
        patched = self._offsets[first : bisect_left(self._offsets, start + len(stored))]
        return read + (self._patch(stored, start, patched) if patched else stored)

    def _patch(self, read: bytes, start: int, offsets: list[int]) -> bytes:
        """Return the bytes read from offset `start`, with the patches of some offsets applied."""
        changed = bytearray(read)
        for at in offsets:
            for i, byte in enumerate(self._check.patches[at], at - start):
                if 0 <= i < len(changed):
                    changed[i] = byte
        return bytes(changed)


def _is_chunk_sequence(
    file: HeaderReader, container: Container, start: int, *, any_name: bool
) -> bool:
    """Return whether chunks follow from an offset up to the end of the file.

    Args:
        file: the file.
        container: what its header declares.
        start: offset of the first chunk.
        any_name: accept names that are not ASCII.
    """
    end = _chunks_end(file, container, start, any_name=any_name)
    return end > start and abs(end - file.size) <= 1


def _chunks_end(file: HeaderReader, container: Container, start: int, *, any_name: bool) -> int:
    """Return the offset after the whole chunks that follow; see `_is_chunk_sequence`."""
    end = start
    for name, at, length in chunks(file, start, container.size_fields[0].byte_order):
        if not (any_name or is_chunk_name(name)) or at + 4 + length > file.size:
            break
        end = min(at + 4 + length + length % 2, file.size)
    return end


def _ends_within_ogg_page(file: HeaderReader) -> bool:
    """Return whether an Ogg file ends before its last page does."""
    tail = file.read(max(0, file.size - _MAX_OGG_PAGE_BYTES), _MAX_OGG_PAGE_BYTES)
    page = tail[tail.rfind(b"OggS") :]
    if len(page) < 27 or len(page) < 27 + page[26]:
        return True
    return 27 + page[26] + sum(page[27 : 27 + page[26]]) > len(page)
