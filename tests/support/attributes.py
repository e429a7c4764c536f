"""The names of an object's attributes, in both builds: compiled classes have neither `__slots__` nor a `__dict__`."""

from __future__ import annotations

from inspect import isgetsetdescriptor
from typing import Any


def attributes(of: Any) -> list[str]:
    kind = type(of)
    if fields := getattr(kind, "__struct_fields__", ()):
        return list(fields)
    slots = [name for each in kind.__mro__ for name in getattr(each, "__slots__", ())]
    described = [
        name
        for each in kind.__mro__
        if each.__module__.startswith("router.")
        for name, value in vars(each).items()
        if isgetsetdescriptor(value) and not name.startswith("__")
    ]
    return slots or described or list(getattr(of, "__dict__", ()))
