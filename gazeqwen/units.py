"""Sizes and durations in words, for people."""

from __future__ import annotations


def duration_text(hours: float) -> str:
    """ "2.5 hours", or minutes below one hour."""
    return f"{hours:.1f} hours" if hours >= 1 else f"{60 * hours:.1f} minutes"


def size_text(n: float) -> str:
    """Bytes in the largest unit up to GiB of which there is one or more."""
    for unit in ("bytes", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.1f} GiB"
