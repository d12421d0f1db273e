"""The values of a header field among those that arrived, in any spelling of its name."""

from __future__ import annotations

from interop.consumers import Fields

__all__ = ["field_values"]


def field_values(fields: Fields, name: str) -> list[str]:
    """Return the values of each field whose name folds to this one."""
    folded = name.lower().replace("_", "-")
    return [value for found, value in fields if found.lower().replace("_", "-") == folded]
