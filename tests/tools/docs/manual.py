"""The man pages, from the commands, the causes, the schema and pages of the book. Pure.

Nothing is told here that is not told there, but for FILES and SEE ALSO. What is Markdown becomes roff in `roff`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from inspect import cleandoc
from typing import Any

import click

from docs import records
from docs.roff import code, inline, item, markdown, plain, rows, section, table, text
from fork_trace.diagnosis import advice, lookup
from fork_trace.diagnosis.cause import Cause
from fork_trace.output.wording import advised

NAME = "fork-trace"
_FILES = (
    ("/proc/PID, /proc/sys", "the state of processes, and the limits of the host"),
    ("/sys/fs/cgroup", "the limits of cgroups; other mount points are found, too"),
    ("/sys/kernel/btf/vmlinux", "the kernel's own types, to which the programs are relocated"),
    ("/proc/kallsyms", "addresses of kernel variables; without them several numbers are unknown"),
    (
        "/sys/kernel/tracing/kprobe_events",
        "written with --attach kprobe only; what a killed run leaves there is disabled, and the next "
        "run removes it",
    ),
    (
        "/tmp/perf-PID.map",
        "names of compiled code, where a runtime was told to write them; read in the root of that "
        "process",
    ),
)
_SEE_ALSO = {
    "fork-trace.8": (
        *("fork-trace-capture(5)", "fork-trace-causes(7)", "clone(2)", "fork(2)", "getrlimit(2)"),
        *("pthread_create(3)", "proc(5)", "cgroups(7)", "namespaces(7)", "pid_namespaces(7)"),
        *("user_namespaces(7)", "bpf(2)"),
    ),
    "fork-trace-capture.5": ("fork-trace(8)", "fork-trace-causes(7)"),
    "fork-trace-causes.7": (
        *("fork-trace(8)", "fork-trace-capture(5)", "fork(2)", "clone(2)", "getrlimit(2)"),
        "cgroups(7)",
    ),
}
# The pages of the book by their topics.
Book = Callable[[str], str]


def command_page(
    version: str, group: click.Group, book: Book, readme: str, causes: Sequence[Cause]
) -> str:
    """Write fork-trace(8): the commands, what a report shows, and what to know before one runs it."""
    what = _paragraphs(cleandoc(group.help or ""))[0]
    lines = [
        *(".SH SYNOPSIS", *_synopsis(group)),
        *(".SH DESCRIPTION", *markdown(section(readme, "Why"))),
        *(".SH COMMANDS", *_commands(group)),
        ".SH FIELDS",
        *("Columns of a report:", *rows(table(book("report"), "column"))),
        *(".PP", "The keys of JSON are those of fork\\-trace\\-capture(5)."),
        *(".SH CAUSES", *_causes(causes)),
        *(".SH OVERHEAD", *markdown(section(book("overhead"), None))),
        *markdown(section(book("overhead"), "How to read it")),
        *(".SH PRIVILEGES", *markdown(section(book("privileges"), None))),
        *markdown(section(book("privileges"), "What it gives up")),
        ".SH FILES",
        *(line for path, what_for in _FILES for line in item(code(path), what_for)),
        *(".SH EXIT STATUS", *rows(table(section(book("formats"), "Exit codes"), "exit code"))),
        *(".SH EXAMPLES", *_examples(group)),
        *(".SH BUGS", *markdown(section(readme, "Limits"))),
    ]
    return _page("fork-trace.8", version, what, lines)


def capture_page(version: str, book: Book, schema: Mapping[str, Any]) -> str:
    """Write fork-trace-capture(5): the records of a capture file and their keys."""
    lines = [".SH DESCRIPTION", *markdown(section(book("capture-file"), None))]
    for kind, title in records.KINDS.items():
        lines += [f".SH {text(title.replace('`', '')).upper()}"]
        for name, what in records.keys(schema, kind):
            lines += item(code(name), what)
    return _page("fork-trace-capture.5", version, "the capture file of fork-trace", lines)


def causes_page(version: str, book: Book, causes: Sequence[Cause]) -> str:
    """Write fork-trace-causes(7): each cause with how to verify, mitigate and fix it."""
    lines = [".SH DESCRIPTION", *markdown(section(book("causes"), None))]
    for heading in ("Refused before the fork", "Errors that are no failures"):
        lines += [f".SS {text(heading)}", *markdown(section(book("causes"), heading))]
    lines += [".SH CAUSES"]
    for cause in causes:
        lines += [f".SS {plain(cause.slug)}", inline(_cause(cause))]
        for kind, remedies in lookup.remedies_of(cause):
            # As it is where nothing is known of the place; `explain` has the other variants.
            label, _, remedy = advised(advice.offline(kind, remedies)[""]).partition(": ")
            lines += item(f"\\fI{label}\\fR", remedy)
        for myth in cause.myths[:1]:
            lines += item("\\fICommon misconceptions\\fR", myth)
        for myth in cause.myths[1:]:
            lines += [".IP", inline(myth)]
    return _page("fork-trace-causes.7", version, "why the kernel refuses a fork", lines)


def _page(file: str, version: str, what: str, lines: Sequence[str]) -> str:
    name, _, number = file.rpartition(".")
    chapter = {
        "8": "System Administration",
        "5": "File Formats",
        "7": "Miscellaneous Information",
    }[number]
    also = ",\n".join(".BR {} ({}".format(*each.split("(")) for each in _SEE_ALSO[file])
    page = [
        '.\\" Written by scripts/build-docs. Change what it is made from instead.',
        f'.TH {plain(name.upper())} {number} "" "{NAME} {version}" "{chapter}"',
        # Commands are to be copied: no break within, and no paddings between, words. Since 1.24 groff's
        # macros take how to adjust from the string AD, at each paragraph.
        *(".nh", ".ad l", ".ds AD l"),
        *(".SH NAME", f"{plain(name)} \\- {text(what[:1].lower() + what[1:])}"),
        *lines,
        # A macro's comma is an argument of it, not a character of the next line.
        *(".SH SEE ALSO", also.replace("),\n.BR", ") ,\n.BR").replace("-", "\\-")),
    ]
    return "\n".join(page) + "\n"


def _synopsis(group: click.Group) -> list[str]:
    lines = []
    for each in sorted(group.commands):
        command = group.commands[each]
        words = "[\\fIOPTIONS\\fR]" if _options(command) else ""
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                more = "" if parameter.nargs == 1 else "..."
                metavar = parameter.metavar or f"[{str(parameter.name).upper()}{more}]"
                dashes = "[\\-\\-] " if each == "capture" else ""
                words += f" {dashes}{plain(metavar)}"
        lines += [f".B {plain(NAME)} {plain(each)}", words.strip() or "\\&", ".br"]
    return lines[:-1]


def _commands(group: click.Group) -> list[str]:
    lines = []
    for each in sorted(group.commands):
        command = group.commands[each]
        lines.append(f".SS {plain(each)}")
        for number, paragraph in enumerate(_paragraphs(cleandoc(command.help or ""))):
            lines += [".PP"] if number else []
            lines.append(inline(paragraph) + ("" if number else "."))
        for option in _options(command):
            lines += item(_option(option), _option_help(option))
    return lines


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _option(option: click.Option) -> str:
    # By hand: what click itself prints of an option differs between its versions.
    names = ", ".join(code(name) for name in option.opts)
    if option.is_flag:
        return names
    kind = option.type
    if option.metavar:
        word = option.metavar
    elif isinstance(kind, click.Choice):
        word = "|".join(kind.choices)
    else:
        word = "N" if isinstance(kind, click.types.IntParamType) else "NUMBER"
    # A line may end after each: \\: breaks without a hyphen.
    return f"{names} \\fI{plain(word)}\\fR".replace("|", "|\\:")


def _option_help(option: click.Option) -> str:
    text = option.help or ""
    if option.show_default:
        text += f" [default: {option.default}]"
    return text


def _cause(cause: Cause) -> str:
    is_limit = cause.limit != cause.means and not cause.limit.startswith("none")
    errnos = ", ".join(cause.errnos) or "any errno"
    return f"{errnos}: {cause.means}" + (f". Limit: {cause.limit}" if is_limit else "")


def _causes(causes: Sequence[Cause]) -> list[str]:
    lines = ["fork\\-trace\\-causes(7) says how to verify, mitigate and fix each."]
    for cause in causes:
        lines += item(f"{code(cause.slug)} ({', '.join(cause.errnos) or 'any errno'})", cause.means)
    return lines


def _examples(group: click.Group) -> list[str]:
    lines: list[str] = []
    for command in (group, *(group.commands[each] for each in sorted(group.commands))):
        for block in re.findall(r"\x08\n(.*?)(?:\n\n|\Z)", cleandoc(command.help or ""), re.DOTALL):
            for line in block.splitlines():
                words, *comment = re.split(r"\s+#\s+", line)
                lines += item(code(words), comment[0] if comment else "\\&")
    return lines


def _paragraphs(text: str) -> list[str]:
    """The running text of a help; its examples begin with click's \\b."""
    found = [" ".join(each.split()) for each in text.split("\n\n") if "\b" not in each]
    return [each for each in found if each]
