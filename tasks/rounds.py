"""Names of the steps that a job grows by: a file of the project each, in rounds of building and checking.

`builder/app/main.py` is the file as first built, `builder/app/main.py@2` as repaired after the first check, `qa@2` the
check after that.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_ID = re.compile(r"(?P<base>[^/@]+)(/(?P<path>[^@]+))?(@(?P<round>[1-9]\d*))?")


@dataclass(frozen=True, slots=True)
class RoundStep:
    """A step of a round. `base` is the step of the spec that it belongs to; `path` is "" where it is no file."""

    base: str
    path: str = ""
    round: int = 1

    @classmethod
    def of(cls, step_id: str) -> RoundStep:
        """Read an id."""
        found = _ID.fullmatch(step_id)
        if found is None:
            raise ValueError(f"{step_id!r} names no step")
        return cls(found["base"], found["path"] or "", int(found["round"] or 1))

    @property
    def id(self) -> str:
        """The id that is read back as this."""
        path = f"/{self.path}" if self.path else ""
        return f"{self.base}{path}@{self.round}" if self.round > 1 else f"{self.base}{path}"
