"""What can end a command, as a tree. Each class carries the exit code that the command line ends with.

    OrchError                        1   the job, or a check, failed; also what fits no branch
    ├── JobFailed                    1   the job ended, and not well
    ├── UsageError                   2   the command was called wrongly
    ├── spec.SpecError               2   the spec is invalid: file, line, value, and what would be right
    ├── EnvironmentNotReady          3   no Redis, a missing key, no such model; says how to fix it
    ├── NoSuchJob                    4   no job has that id
    └── Interrupted                130   the user stopped us (128 + SIGINT, as shells have it)

The codes are a contract with users' scripts. Every message is written for the user: what is wrong,
and what to do. Every error rebuilds from its `args`.
"""

from __future__ import annotations

from typing import ClassVar


class OrchError(Exception):
    """Something went wrong that the user is told about in one sentence."""

    exit_code: ClassVar[int] = 1


class JobFailed(OrchError):
    """The job came to its end, and not well."""


class UsageError(OrchError):
    """The command was called wrongly: a flag, an argument, a combination of them."""

    exit_code = 2


class EnvironmentNotReady(OrchError):
    """Something that the command needs is not there; the message says how to get it."""

    exit_code = 3


class NoSuchJob(OrchError):
    """No job has that id, or more than one begins with it."""

    exit_code = 4


class Interrupted(OrchError):
    """The user stopped the command."""

    exit_code = 130
