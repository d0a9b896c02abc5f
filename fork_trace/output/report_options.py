"""How much a report shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fork_trace.model.records import Forks, Slow
    from fork_trace.output.page.gathered import Gathered
    from fork_trace.output.paragraph import Told

# Who else failed is seldom worth a second screen; a fork bomb can have thousands of names.
MOST_ROWS = 50
# Of a fleet a report has two screens: fewer rows, which do not name their hosts.
MANY_HOSTS, ROWS_OF_MANY = 8, 10


class Timed(NamedTuple):
    """The slow forks of one host in words; in all of them every name is harmless."""

    title: str  # which host, when
    head: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]  # on the rows
    told: Sequence[Told]  # the worst rows
    unseen: Sequence[str]


class ReportOptions(NamedTuple):
    """How much a report shows: beyond the table and the causes only if asked."""

    times: bool = False
    stacks: bool = False
    rows: int = MOST_ROWS  # for people; 0: all
    width: int | None = None  # columns of the terminal; None: it is none
    gathered: Gathered | None = None  # what a page shows beyond the counts
    timed: Sequence[Slow | Forks] = ()  # forks that took long, for other programs
    slow: Sequence[Timed] = ()  # the same for a page


PLAIN = ReportOptions()
