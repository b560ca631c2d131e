"""The bases of every value that crosses a border: frozen, strict, closed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Immutable, refuses unknown keys and wrong types; read it from JSON, where a list is a tuple."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, protected_namespaces=())


class Written(Frozen):
    """What a person writes: its numbers are finite, since JSON keeps no other and no comparison holds with NaN."""

    model_config = ConfigDict(allow_inf_nan=False)
