"""What a person can be told: one exception, with its remedy. Only the door (cli) prints it."""

from __future__ import annotations


class ForkTraceError(Exception):
    """Something that could not be done: `message` says what and why, `hint` what to do about it."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NotHereError(ForkTraceError):
    """This kernel or host cannot do it at all, so that nobody has to look for a mistake."""
