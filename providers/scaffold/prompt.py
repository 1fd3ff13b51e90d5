"""Reading the prompts: the data between their tags, with the escaping undone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from providers.types import Message

_TAG = re.compile(r'^<(?P<name>[a-z_]+)(?: path="(?P<path>[^\n]*)")?>\n', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Data:
    """What stands between a tag and its end; `path` is the tag's attribute, where it has one."""

    tag: str
    text: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A question as the templates under tasks/prompts/ put it: data in tags, and our own words around them."""

    words: str
    data: tuple[Data, ...]

    def first(self, tag: str) -> str | None:
        """Return the text of the first such tag."""
        return next((data.text for data in self.data if data.tag == tag), None)

    def written_files(self) -> dict[str, str]:
        """Return the files that the prompt quotes, by path."""
        return {data.path: data.text for data in self.data if data.tag == "written_file"}


def read(messages: Sequence[Message]) -> Prompt:
    """Read the first question of a conversation; what follows it are re-asks."""
    text = next((message["content"] for message in messages if message["role"] == "user"), "")
    parts = list(_parts(text))
    return Prompt(
        "\n".join(part for part in parts if isinstance(part, str)),
        tuple(part for part in parts if isinstance(part, Data)),
    )


def _parts(text: str) -> Iterator[str | Data]:
    """Yield the words and the data in turn; a tag inside data is data."""
    at = 0
    while match := _TAG.search(text, at):
        name = match["name"]
        end = text.find(f"\n</{name}>", match.end() - 1)
        if end < 0:
            break
        yield text[at : match.start()]
        escaped = text[match.end() : max(end, match.end())]
        yield Data(name, escaped.replace(f"<\\/{name}", f"</{name}"), match["path"] or "")
        at = end + len(f"\n</{name}>")
    yield text[at:]
