"""How large what a worker tells beside its results may be: exceptions of initializers, log records."""

from __future__ import annotations

#: Bytes of such a message: a worker's memory, and the caller's, is no place for more.
LARGEST = 16 << 20


def cut(text: str, most: int) -> str:
    """Leave the middle out of a text of more than `most` characters."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]} …({len(text) - 2 * half} characters cut)… {text[len(text) - half :]}"
