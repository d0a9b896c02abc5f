"""Names of C++ and Rust as people write them, within bounds. Rust's examples are those of its RFCs."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.stacks.demangle import Demangler, rust


@pytest.fixture(scope="module")
def reader() -> Demangler:
    found = Demangler()
    if found.why_not:
        pytest.skip(f"{found.why_not}; install it (Debian: libstdc++6) to run it")
    return found


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"main", "main"),
        (b"_ZN4node11ProcessWrap5SpawnEi", "node::ProcessWrap::Spawn(int)"),
        (b"_ZN12_GLOBAL__N_13runEv", "(anonymous namespace)::run()"),
        (b"_ZN3std2io5stdio6_print17h3f3e0e2f0a1b2c3dE", "std::io::stdio::_print"),
        (
            b"_ZN71_$LT$Test$u20$$u2b$$u20$$u27$static$u20$as$u20$foo..Bar$LT$Test$GT$$GT$"
            b"3bar17h930b740aa94f1d3aE",
            "<Test + 'static as foo::Bar<Test>>::bar",
        ),
        (b"_RNvC6_123foo3bar", "123foo::bar"),
        (
            b"_RNqCs4fqI2P2rA04_11utf8_identsu30____7hkackfecea1cbdathfdh9hlq6y",
            "utf8_idents::საჭმელად_გემრიელი_სადილი",
        ),
        (b"_RNCNCNgCs6DXkGYLi8lr_2cc5spawn00B5_", "cc::spawn::{closure#0}::{closure#0}"),
        (
            b"_RNCINkXs25_NgCsbmNqQUJIY6D_4core5sliceINyB9_4IterhENuNgNoBb_4iter8iterator8Iterator"
            b"9rpositionNCNgNpB9_6memchr7memrchrs_0E0Bb_",
            "<core::slice::Iter as core::iter::iterator::Iterator>::rposition::{closure#0}",
        ),
        (
            b"_RINbNbCskIICzLVDPPb_5alloc5alloc8box_freeDINbNiB4_5boxed5FnBoxuEp6OutputuEL_E"
            b"Cs1iopQbuBiw2_3std",
            "alloc::alloc::box_free",
        ),
        (b"_Rgarbage", "_Rgarbage"),
        (b"_Zgarbage", "_Zgarbage"),
        (b"\xff", "\\xff"),
    ],
)
def test_a_name_is_read(reader: Demangler, raw: bytes, expected: str) -> None:
    assert expected == reader.text(raw)


def test_without_libstdcxx_names_stay_as_they_are_and_it_is_said_why() -> None:
    found = Demangler("libstdc++-that-is-not-there.so.6")

    assert "no libstdc++" in (found.why_not or "")
    assert "_ZN3FooclEi" == found.text(b"_ZN3FooclEi")
    assert "123foo::bar" == found.text(b"_RNvC6_123foo3bar")


def doubling(levels: int) -> bytes:
    """A name each of whose parts holds the one before it twice."""
    digits = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    raw = b"_Z1f1AIiiE"
    for level in range(levels):
        raw += b"1BI" + b"S%c_" % digits[min(2 * level, 35)] * 2 + b"E"
    return raw


@pytest.mark.parametrize("levels", [4, 12, 15, 16, 40, 100])
def test_a_name_that_grows_without_end_is_cut_or_left(reader: Demangler, levels: int) -> None:
    began_s = time.monotonic()
    text = reader.text(doubling(levels))

    assert len(text) <= 2048
    assert time.monotonic() - began_s < 5


def test_a_long_name_is_left_as_it_is(reader: Demangler) -> None:
    raw = b"_ZN" + b"1a" * 2000 + b"Ev"

    assert raw.decode() == reader.text(raw)


@given(some.text(alphabet="NCMXYIBRQSATFDGLKEsu_0123456789abz", max_size=200))
def test_no_rust_name_is_too_odd(tail: str) -> None:
    found = rust(f"_R{tail}")

    assert found is None or len(found) <= 2048


@given(some.binary(max_size=64))
def test_no_bytes_are_too_odd(reader: Demangler, raw: bytes) -> None:
    assert isinstance(reader.text(b"_Z" + raw.replace(b"\0", b"")), str)
