"""That what is left out of the standard dataclass is not missed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from fork_trace.model.dataclass import dataclass

Decorator = Callable[[type[Any]], type[Any]]


def three(decorate: Decorator) -> type[Any]:
    """A class with a default, one made anew, and one that is neither compared nor shown."""

    class Three:
        one: int
        two: tuple[str, ...] = ("b",)
        three: list[int] = dataclasses.field(default_factory=list, compare=False, repr=False)

    return decorate(Three)


FROZEN: Decorator = dataclass(frozen=True)
OURS = three(FROZEN)
STANDARD = three(dataclasses.dataclass(frozen=True))


@pytest.mark.parametrize("values", [(1,), (1, ("b",)), (2,), (1, ()), (1, ("b",), [3])])
def test_it_is_compared_hashed_and_shown_as_the_standard_one(values: tuple[Any, ...]) -> None:
    ours, standard = OURS(*values), STANDARD(*values)

    assert (ours == OURS(1)) == (standard == STANDARD(1))
    assert (ours != OURS(1)) == (standard != STANDARD(1))
    assert (hash(ours) == hash(OURS(1))) == (hash(standard) == hash(STANDARD(1)))
    assert repr(ours) == repr(standard)
    assert dataclasses.asdict(ours) == dataclasses.asdict(standard)
    assert dataclasses.replace(ours, one=5) == OURS(5, *values[1:])


def test_two_classes_with_the_same_fields_are_not_equal() -> None:
    assert OURS(1) != three(FROZEN)(1)
    assert OURS(1) != (1, ("b",))


def test_what_can_be_changed_cannot_be_hashed() -> None:
    made = three(dataclass)(1)
    made.one = 2

    assert made == type(made)(2)
    with pytest.raises(TypeError, match="unhashable"):
        hash(made)


def test_one_field_or_none_is_compared_too() -> None:
    class One:
        one: int

    class Nothing:
        pass

    one, nothing = FROZEN(One), FROZEN(Nothing)

    assert one(1) == one(1) != one(2)
    assert hash(one(1)) == hash(one(1))
    assert nothing() == nothing()
    assert repr(nothing()).endswith("Nothing()")


def test_what_a_class_defines_itself_it_keeps() -> None:
    class Own:
        one: int

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return 7

        def __repr__(self) -> str:
            return "own"

    own = FROZEN(Own)

    assert own(1) == own(2)
    assert hash(own(1)) == 7
    assert repr(own(1)) == "own"


def test_its_default_arguments_are_checked_by_the_standard_one() -> None:
    class Late:
        one: int = 0
        two: int

    with pytest.raises(TypeError, match="two"):
        dataclass(Late)
