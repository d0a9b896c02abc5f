"""The man page, from the commands, the causes, the schema and sections of the README. Pure.

Nothing is told here that is not told there, but for FILES and SEE ALSO.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import click

from fork_trace.diagnosis.cause import Cause

_FILES = (
    ("/proc/PID, /proc/sys", "the state of processes, and the limits of the host"),
    ("/sys/fs/cgroup", "the limits of cgroups; what is mounted elsewhere is found, too"),
    ("/sys/kernel/btf/vmlinux", "the kernel's own types, by which the programs fit it"),
    ("/proc/kallsyms", "addresses of kernel variables; without them several numbers are unknown"),
    (
        "/sys/kernel/tracing/kprobe_events",
        "written by the kprobe rung only; what a killed run leaves there is disabled, and the next "
        "one removes it",
    ),
    (
        "/tmp/perf-PID.map",
        "names of compiled code, where a runtime was told to write them; read in the root of that "
        "process",
    ),
)
_SEE_ALSO = (
    *("clone(2)", "fork(2)", "getrlimit(2)", "pthread_create(3)", "proc(5)", "cgroups(7)"),
    *("namespaces(7)", "pid_namespaces(7)", "user_namespaces(7)", "bpf(2)"),
)


def page(
    name: str,
    version: str,
    group: click.Group,
    readme: str,
    causes: Sequence[Cause],
    schema: Mapping[str, Any],
) -> str:
    """Write the whole page."""
    what = _paragraphs(group.help or "")[0]
    lines = [
        '.\\" Written by scripts/build-docs. Change what it is made from instead.',
        f'.TH {_plain(name.upper())} 8 "" "{name} {version}" "System Administration"',
        # Commands are to be copied: no break within, and no paddings between, words.
        *(".nh", ".ad l"),
        *(".SH NAME", f"{_plain(name)} \\- {_text(_small(what))}"),
        *(".SH SYNOPSIS", *_synopsis(name, group)),
        *(".SH DESCRIPTION", *_introduction(readme)),
        *(".SH COMMANDS", *_commands(group)),
        *(".SH FIELDS", *_fields(readme, schema)),
        *(".SH CAUSES", *_causes(causes)),
        *(".SH OVERHEAD", *_markdown(_section(readme, "Overhead"))),
        *(".SH PRIVILEGES", *_markdown(_section(readme, "Privileges"))),
        ".SH FILES",
        *(line for path, text in _FILES for line in _item(_code(path), text)),
        *(".SH EXIT STATUS", *_rows(_table(_section(readme, "Three commands"), "exit code"))),
        *(".SH EXAMPLES", *_examples(group)),
        *(".SH BUGS", *_markdown(_section(readme, "What it does not do"))),
        ".SH SEE ALSO",
        ",\n".join(".BR {} ({}".format(*each.split("(")) for each in _SEE_ALSO),
    ]
    # A macro's comma is an argument of it, not a character of the next line.
    text = "\n".join(lines).replace("),\n.BR", ") ,\n.BR")
    return text + "\n"


def _introduction(readme: str) -> list[str]:
    # Between what it is and why there is one stands an example, with a remark on it.
    first, *_, last = _section(readme, None).strip().split("\n\n")
    return _markdown(f"{first}\n\n{last}\n")


def _synopsis(name: str, group: click.Group) -> list[str]:
    lines = []
    for each in sorted(group.commands):
        command = group.commands[each]
        words = "[\\fIOPTIONS\\fR]" if _options(command) else ""
        for parameter in command.params:
            if isinstance(parameter, click.Argument):
                metavar = parameter.metavar or f"[{str(parameter.name).upper()}...]"
                dashes = "[\\-\\-] " if each == "capture" else ""
                words += f" {dashes}{_plain(metavar)}"
        lines += [f".B {_plain(name)} {_plain(each)}", words.strip() or "\\&", ".br"]
    return lines[:-1]


def _commands(group: click.Group) -> list[str]:
    lines = []
    for each in sorted(group.commands):
        command = group.commands[each]
        lines.append(f".SS {_plain(each)}")
        for number, paragraph in enumerate(_paragraphs(command.help or "")):
            lines += [".PP"] if number else []
            lines.append(_inline(paragraph) + ("" if number else "."))
        for option in _options(command):
            lines += _item(_option(option), _option_help(option))
    return lines


def _options(command: click.Command) -> list[click.Option]:
    return [each for each in command.params if isinstance(each, click.Option) and not each.hidden]


def _option(option: click.Option) -> str:
    # By hand: what click itself prints of an option differs between its versions.
    names = ", ".join(_code(name) for name in option.opts)
    if option.is_flag:
        return names
    kind = option.type
    if option.metavar:
        word = option.metavar
    elif isinstance(kind, click.Choice):
        word = "|".join(kind.choices)
    else:
        word = "N" if isinstance(kind, click.types.IntParamType) else "NUMBER"
    return f"{names} \\fI{_plain(word)}\\fR"


def _option_help(option: click.Option) -> str:
    text = option.help or ""
    if option.show_default:
        text += f" [default: {option.default}]"
    return text


def _fields(readme: str, schema: Mapping[str, Any]) -> list[str]:
    lines = ["In a report:", *_rows(_table(_section(readme, "How to read a report"), "column"))]
    for kind, text in (
        ("failure", "In a failure record of a capture or of \\-\\-json:"),
        ("evidence", "In its evidence:"),
        ("advice", "In its advice:"),
        ("summary", "In the summary record that ends a capture:"),
        ("limit", "In the limits of check \\-\\-json:"),
    ):
        lines += [".PP", text]
        for name, part in schema["definitions"][kind]["properties"].items():
            if name != "type":
                lines += _item(_code(name), _described(part, schema))
    return [*lines, ".PP", "\\fBfork\\-trace schema\\fR prints all of them for programs."]


def _described(part: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    if "description" in part:
        return str(part["description"])
    return str(schema["definitions"][part["$ref"].rpartition("/")[2]]["description"])


def _causes(causes: Sequence[Cause]) -> list[str]:
    lines = ["\\fBfork\\-trace explain CAUSE\\fR says how to verify, mitigate and fix each."]
    for cause in causes:
        errnos = ", ".join(cause.errnos) or "any errno"
        is_limit = cause.limit != cause.means and not cause.limit.startswith("none")
        text = cause.means + (f". Limit: {cause.limit}" if is_limit else "")
        lines += _item(f"{_code(cause.slug)} ({errnos})", text)
    return lines


def _examples(group: click.Group) -> list[str]:
    lines: list[str] = []
    for command in (group, *(group.commands[each] for each in sorted(group.commands))):
        for block in re.findall(r"\x08\n(.*?)(?:\n\n|\Z)", command.help or "", re.DOTALL):
            for line in block.splitlines():
                words, *comment = re.split(r"\s+#\s+", line)
                lines += _item(_code(words), comment[0] if comment else "\\&")
    return lines


def _paragraphs(text: str) -> list[str]:
    """The running text of a help; its examples begin with click's \\b."""
    found = [" ".join(each.split()) for each in text.split("\n\n") if "\b" not in each]
    return [each for each in found if each]


def _section(readme: str, heading: str | None) -> str:
    """One section of the README; None: what stands before the first heading."""
    parts = re.split(r"^##? +(.*)$", readme, flags=re.MULTILINE)
    if heading is None:
        return parts[2]
    found = dict(zip(parts[1::2], parts[2::2]))
    if heading not in found:
        raise ValueError(f"README.md has no section {heading!r}")
    return found[heading]


def _table(section: str, first: str) -> list[list[str]]:
    """The rows of the table whose first heading this is, headings included."""
    lines = section.splitlines()
    begin = next(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[begin:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])])
    return [row for row in rows if set("".join(row)) != {"-"}]


def _rows(table: list[list[str]]) -> list[str]:
    headings, *rows = table
    lines = []
    for first, *cells in rows:
        if len(cells) == 1:
            text = cells[0]
        else:
            text = "; ".join(f"{head}: {cell}" for head, cell in zip(headings[1:], cells))
        tag = _inline(first) if "`" in first else _code(first)
        lines += [".TP", tag, _inline(text)]
    return lines


def _markdown(text: str) -> list[str]:
    """Paragraphs, tables and code, as far as the README has them."""
    lines: list[str] = []
    pieces = re.split(r"^```\n(.*?)^```\n", re.sub(r"<!--.*?-->\n", "", text), flags=re.M | re.S)
    for number, piece in enumerate(pieces):
        if number % 2:
            lines += [".PP", ".nf", *map(_plain, piece.splitlines()), ".fi"]
            continue
        for block in re.split(r"\n{2,}", piece.strip("\n")):
            if block.startswith("|"):
                rows = _table(block, block[2:].split(" |")[0]) if block[2] != " " else _bare(block)
                lines += _rows(rows)
            elif block.strip():
                lines += [".PP", _inline(" ".join(block.split()))]
    return lines[1:] if lines[:1] == [".PP"] else lines


def _bare(block: str) -> list[list[str]]:
    """A table whose first column has no heading."""
    rows = [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in block.splitlines()]
    return [row for row in rows if set("".join(row)) != {"-"}]


def _item(tag: str, text: str) -> list[str]:
    return [".TP", tag, text if text == "\\&" else _inline(text)]


def _small(text: str) -> str:
    return text[:1].lower() + text[1:]


def _inline(text: str) -> str:
    """Text with the README's code, in bold, and its stress, in italics."""
    pieces = re.split(r"`([^`]+)`", text)
    parts = []
    for number, piece in enumerate(pieces):
        if number % 2:
            parts.append(_code(piece))
        else:
            stressed = re.split(r"\*([^* ][^*]*)\*", piece)
            parts += [
                f"\\fI{_text(each)}\\fR" if i % 2 else _text(each)
                for i, each in enumerate(stressed)
            ]
    return _guard("".join(parts))


def _code(text: str) -> str:
    return f"\\fB{_plain(text)}\\fR"


def _text(text: str) -> str:
    return _guard(_escaped(text).replace("--", "\\-\\-"))


def _plain(text: str) -> str:
    """Text to be copied: what groff would set otherwise stays as it is."""
    return _guard(_escaped(text).replace("-", "\\-"))


def _escaped(text: str) -> str:
    for char, name in (
        ("\\", "\\e"),
        ("'", "\\(aq"),
        ("`", "\\(ga"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        text = text.replace(char, name)
    return text


def _guard(line: str) -> str:
    return f"\\&{line}" if line.startswith((".", "'")) else line
