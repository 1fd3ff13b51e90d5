"""What may be shown of a vendor's words: no key, nothing of the prompt, nothing that a terminal would act on."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

LONGEST = 300
"""Characters of a vendor's words that are shown; the first READ of them are looked at."""

READ = 4 * LONGEST

OVERLAP = 20
"""Characters in a row that words share with the prompt because they quote it, not by chance."""

_TERMINAL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def shown(text: str, keys: Sequence[str], prompts: Sequence[str]) -> str:
    """Make a vendor's words fit for a message: one short line without keys and without what they quote."""
    for key in keys:
        text = text.replace(key, "[key]")
    text = _printable(text[:READ])
    for prompt in prompts:
        text = _unquoted(text, " ".join(prompt.split()))
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _printable(text: str) -> str:
    line = " ".join(_TERMINAL.sub("", text).split())
    return "".join(character for character in line if unicodedata.category(character)[0] != "C")


def _unquoted(text: str, prompt: str) -> str:
    if len(prompt) >= OVERLAP // 2:
        text = text.replace(prompt, "…")
    kept, at = [], 0
    while at < len(text):
        end = at + OVERLAP
        if end > len(text) or text[at:end] not in prompt:
            kept.append(text[at])
            at += 1
            continue
        while end < len(text) and text[at : end + 1] in prompt:
            end += 1
        kept.append("…")
        at = end
    return "".join(kept)
