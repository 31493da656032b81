"""How much work one draw may do."""

from __future__ import annotations

from typing import Self

from pydantic import Field

from anytime_ar.config import Config
from anytime_ar.errors import InputError


class Budget(Config):
    """When to stop drawing. The decode loop asks `allows` before every code."""

    codes: int = Field(ge=1)
    """Stop after this many codes, 1..L."""

    @classmethod
    def of(cls, codes: int | None, *, code_length: int) -> Self:
        """The budget of a call on a model with `code_length` codes; None: all of them.

        Raises:
            InputError: `codes` is not a whole number in 1..L.
        """
        if codes is None:
            codes = code_length
        if not 1 <= codes <= code_length:
            raise InputError(
                f"codes={codes} is outside 1..{code_length}, this model's code length; "
                "pass a number in that range"
            )
        return cls.parse({"codes": codes}, origin="sample")

    def allows(self, drawn: int) -> bool:
        """Whether another code may be drawn after `drawn` of them."""
        return drawn < self.codes
