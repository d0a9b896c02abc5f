"""Which texts name a fork and tell of no refusal: one that succeeded, a setting, a repository. Pure.

Only of a text in which no errno is told and nothing failed; what was refused is `kinds`'.
"""

from __future__ import annotations

import re

from fork_trace.diagnosis import kinds

_TASK = r"(?:process(?:es)?|child(?:ren)?|workers?|threads?|daemons?|backends?|launcher|executor|namespaces?)"
_FORK = r"(?:(?:v|pre)?fork|posix_spawnp?|clone3?|unshare|setns|execve(?:at)?|pthread_create)"
_MADE = r"(?:forked|(?:re)?spawned|started|launched|booted|created|cloned)"
_MAKING = r"(?:forking|(?:re)?spawning|booting)"

# Anything of these, and the text may tell of a refusal after all.
_TROUBLE = (
    r"\b(?:no|not|never|none|nothing|without|instead)\b|n't\b|\b0 (?:of|workers|processes|threads|children|"
    r"forks)\b|returned -|= -|exception|traceback|crash|died|\bdead\b|\blost\b|broken|problem|"
    r"trouble|\bcrit|\bemerg|unsuccess|forbid|missing|invalid|abnormal|unexpected|hang|hung|stuck|time?d? ?out|"
    # systemd's own steps; perror, of an errno that was overwritten
    r"status=2\d\d/|"
    r": success$"
)
_SUCCEEDED = (
    # Redis: its child reports what copy-on-write cost
    r"fork cow for ",
    r"\bbackground (?:saving|append only file rewrit\w+|aof rewrit\w+) (?:started|terminated with success|"
    r"finished successfully)",
    # strace
    rf"\b{_FORK}\(.*\) += 0$|\b(?:v?fork|clone3?)\(.*\) += \d+$",
    r"\bstrace: process \d+ attached",
    r"\b(?:v?fork|clone3?)\b.{0,20} returned \d",
    r"\b(?:posix_spawnp?|pthread_create)\b.{0,20} returned 0$",
    rf"\b{_TASK}\b.*\b{_MADE}\b|\b(?:forked|(?:re)?spawned)\b|\b{_MADE}\b.*\b{_TASK}\b",
    rf"(?:^|[:\])>*-] ){_MAKING}\b|\b{_MAKING}(?: \d+ |\.\.\.$)|\bin {_MAKING} mode",
    # nginx; and who says how many it starts
    r"\bstart (?:worker|cache \w+) process(?:es)?(?: \d+)?$",
    rf"\b(?:starting|creating|launching) \d+ (?:\S+ )?{_TASK}\b",
    rf"\bwith \d+ (?:\S+ )?{_TASK}\b",
    r"\babout to fork\b",
    rf"\b(?:{_FORK}|{_TASK})\b.*\b(?:succe(?:ed|eded|ss|ssful|ssfully)|ok|done|finished|completed?|ready)\b",
    rf"\b(?:succe(?:ssful|ssfully))\b.*\b(?:{_FORK}|{_TASK})\b",
    rf"\b(?:{_FORK}|{_TASK})\b.*(?<!\[)\b(?:pid|child) ?[:=#]? ?\(?\d+",
)
_ENDED = (
    r"\b(?:process|child|worker|vm|forked \S+)\b.*\b(?:exited|exit|terminated|ended|stopped)\b.{0,5}"
    r"\b(?:normally|properly|cleanly|gracefully|with (?:exit )?(?:code|status) \d+|code=exited|"
    r"signal (?:segmentation|bus|abort|illegal|floating))"
)
_SETTINGS = (
    r"\bforks? ?[:=] ?\d|--forks?[ =]\d|^\d+ forks$|\b(?:total_forks|forks_total)\b|\btype ?= ?forking\b|"
    r"apparmor='?(?:allowed|audit)"
)
_REPOSITORY = (
    r"\bfork(?:ed|ing)? (?:of |from )?(?:the |this |that |a |your |my |our )*"
    r"(?:repo(?:sitor(?:y|ies))?|project|[a-z][\w.-]*/[a-z][\w.-]*)(?![\w/]*\()"
)
_REPOSITORY_TOO = (
    r"\bgit clone\b|\bcloning into\b|\bpull request|\bfork/pull/|\bgit(?:hub|lab)?\b.*\bfork\b"
)
# It prints a refused fork only with its cause, and then the errno with it.
_OWN = (
    r"(?:^|\s)fork-trace(?:\[\d+\])?(?:[:,]|$)(?!.*\b(?:cannot|could not|failed|errno unknown)\b)"
)

SUCCEEDED = "The text tells of something that was started, and of nothing that failed."
ENDED = "The text tells of a process that had been started, and has ended since."
SETTING = "The text is a setting or a count."
REPOSITORY = "The text is about a repository: a copy of it is called a fork or a clone."
OWN = "fork-trace printed this about itself."


def why(text: str, error: str | None) -> str | None:
    """Say why a normal text tells of nothing that was refused; None: it may tell of a refusal."""
    if error is not None:
        return None
    if re.search(_OWN, text):
        return OWN
    if re.search(_REPOSITORY, text):
        return REPOSITORY
    if kinds.is_refusal(text) or kinds.is_late_or_slow(text) or re.search(_TROUBLE, text):
        return None
    if re.search(_REPOSITORY_TOO, text):
        return REPOSITORY
    if re.search(_SETTINGS, text):
        return SETTING
    if re.search(_ENDED, text):
        return ENDED
    return SUCCEEDED if any(re.search(each, text) for each in _SUCCEEDED) else None
