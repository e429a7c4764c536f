"""How much memory the process may use, in a container and outside."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

UNKNOWN = 4 << 30  # bytes that are assumed where the system does not tell


def memory_limit(system: Path = Path("/")) -> int:
    """Bytes of memory that the process may use: the limit of its control groups, else all of the machine's."""
    limits = [_number(file) for file in _limit_files(system)]
    return min([_physical(), *(limit for limit in limits if limit)])


def _limit_files(system: Path) -> Iterator[Path]:
    """The files with the limits of the control groups that the process is in, in both versions."""
    groups = system / "sys/fs/cgroup"
    try:
        lines = (system / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    for line in ["0::/", "0:memory:/", *lines]:  # in a container, a group is often seen as the root
        _, kinds, path = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top, name = (groups / "memory", "memory.limit_in_bytes") if kinds else (groups, "memory.max")
        group = top / path.lstrip("/")
        yield from (each / name for each in (group, *group.parents) if each == top or top in each.parents)


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None  # `max`: no limit


def _physical() -> int:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return UNKNOWN
    return size if size > 0 else UNKNOWN
