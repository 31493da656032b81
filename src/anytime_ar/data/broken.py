"""Samples that do not decode, gathered so that all of a set are told at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from anytime_ar.data.rows import BrokenSampleError, Row, RowDecoder, SplitRows, StoredArray

_MAX_NAMED = 10


class BrokenSampleCollector:
    """What was found broken so far; refused at the end, or left out.

    Args:
        skip: leave them out.
    """

    def __init__(self, skip: bool) -> None:
        self._skip = skip
        self._errors: list[BrokenSampleError] = []

    def decode(self, decoder: RowDecoder, row: Row) -> StoredArray | None:
        """One sample; None, and noted, where it is broken."""
        try:
            return decoder(row)
        except BrokenSampleError as error:
            self._errors.append(error)
            return None

    def raise_or_report(self) -> list[str]:
        """Tell what is left out.

        Raises:
            BrokenSampleError: there are broken samples, and they are not to be left out.
        """
        if not self._errors:
            return []
        if not self._skip:
            raise combine_errors(self._errors, "; set data.skip_broken to leave such samples out")
        return [f"left out {len(self._errors)} broken samples: {combine_errors(self._errors)}"]


def combine_errors(errors: Sequence[BrokenSampleError], hint: str = "") -> BrokenSampleError:
    """One error for several samples: the first are named, the others counted."""
    first = "; ".join(map(str, errors[:_MAX_NAMED]))
    more = f"; and {len(errors) - _MAX_NAMED} more" if len(errors) > _MAX_NAMED else ""
    count = f"{len(errors)} samples cannot be read: " if len(errors) > 1 else ""
    return BrokenSampleError(f"{count}{first}{more}{hint}")


class DecodableRows:
    """The rows of `rows` that decode; found once, by reading all of them."""

    def __init__(self, rows: SplitRows, decoder: RowDecoder, broken: BrokenSampleCollector) -> None:
        self._rows = rows
        self._indices = []
        self._left_out = set()
        for row in rows.read():
            if broken.decode(decoder, row) is None:
                self._left_out.add(row.index)
            else:
                self._indices.append(row.index)

    @property
    def size(self) -> int:
        """See `DecodeState`."""
        return len(self._indices)

    def index_of(self, position: int) -> int:
        """See `DecodeState`."""
        return self._indices[position] if position < self.size else self._rows.index_of(position)

    def read(self, start: int = 0) -> Iterator[Row]:
        """See `DecodeState`."""
        return (row for row in self._rows.read(start) if row.index not in self._left_out)
