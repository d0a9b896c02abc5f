"""What is kept of failures, for those that are counted and not sampled."""

from __future__ import annotations

from conftest import make_failure

from fork_trace.collect import ration
from fork_trace.collect.ration import Latest
from fork_trace.model.records import Failure, Frame, to_json


def a_failure(frames: int = 1) -> Failure:
    return make_failure(stack=(Frame(1, "fork", None),) * frames)


def test_the_stacks_of_keys_that_are_long_gone_are_not_kept() -> None:
    latest = Latest()
    keys = [bytes([number % 256, number // 256]) for number in range(ration.WHOLE + 2)]
    for key in (*keys[:-1], keys[0], keys[-1]):
        latest.keep(key, a_failure())
    kept = {key: latest.get(key) for key in keys}

    assert len(keys) == len(latest)
    assert keys[1:3] == [key for key, each in kept.items() if each and not each.stack]
    assert {make_failure().caller} == {each.caller for each in kept.values() if each}


def test_keys_that_are_long_gone_are_not_kept() -> None:
    latest = Latest()
    keys = [number.to_bytes(2, "big") for number in range(2049)]
    for key in keys:
        latest.keep(key, a_failure())

    assert (2048, None) == (len(latest), latest.get(keys[0]))
    assert latest.get(keys[1]) is not None


def test_what_is_kept_is_short() -> None:
    latest = Latest()
    latest.keep(b"key", a_failure(frames=1000))
    kept = latest.get(b"key")

    assert kept is not None
    assert len(to_json(kept)) <= ration.SHORT_RECORD_BYTES
    assert 1000 == len(kept.stack) + kept.frames_omitted


def test_what_is_forgotten_can_be_kept_again() -> None:
    latest = Latest()
    latest.keep(b"key", a_failure())
    latest.forget(b"key")
    latest.forget(b"another")

    assert latest.get(b"key") is None
    latest.keep(b"key", a_failure())
    assert a_failure() == latest.get(b"key")
