"""`dataclasses.dataclass` for a tool that is started in the middle of an incident.

The standard one compiles up to six methods for each class, which takes most of the time of making it.
Here only `__init__` is compiled. Instances are compared, hashed and shown as by the standard one. That
nobody changes a frozen one, mypy sees to alone.
"""

from __future__ import annotations

import dataclasses
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    _T = TypeVar("_T")

    def dataclass(made: type[_T] | None = None, *, frozen: bool = False):
        """Decorate a class, with or without parentheses; a frozen one can be hashed."""

        def decorate(cls: type[_T]) -> type[_T]:
            cls = dataclasses.dataclass(eq=False, repr=False)(cls)
            _compare(cls, is_hashed=frozen)
            return cls

        return decorate if made is None else decorate(made)


def _compare(cls: type[Any], is_hashed: bool) -> None:
    """Give a class what `dataclasses` would have compiled for it, but for what it defines itself."""
    names = [each.name for each in dataclasses.fields(cls) if each.compare]
    values = attrgetter(*names) if names else lambda _made: ()

    def equal(one: Any, other: Any) -> Any:
        return values(one) == values(other) if one.__class__ is other.__class__ else NotImplemented

    def hashed(one: Any) -> int:
        return hash(values(one))

    made = {"__eq__": equal, "__hash__": hashed if is_hashed else None, "__repr__": _shown}
    own = set(vars(cls))
    for name in made.keys() - own:
        setattr(cls, name, made[name])


def _shown(one: Any) -> str:
    fields = dataclasses.fields(one)
    shown = ", ".join(f"{each.name}={getattr(one, each.name)!r}" for each in fields if each.repr)
    return f"{one.__class__.__qualname__}({shown})"
