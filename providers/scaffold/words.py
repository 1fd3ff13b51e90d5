"""Words and names: singular and plural, identifiers that are safe in the code we write."""

from __future__ import annotations

import keyword
import re
import unicodedata

from providers.scaffold.lexicon import PLURALS, TAKEN_CLASSES, TAKEN_FIELDS, TAKEN_VARIABLES, UNCOUNTABLE

_SINGULARS = {plural: singular for singular, plural in PLURALS.items()}
_UMLAUTS = str.maketrans({"ä": "ae", "ö": "oe", "ü": "ue", "Ä": "Ae", "Ö": "Oe", "Ü": "Ue", "ß": "ss"})


def singular(word: str) -> str:
    """Return the singular of a lower-case noun, or the word itself where it has no plural form."""
    head, joint, last = word.rpartition("_")
    return head + joint + _singular(last)


def plural(word: str) -> str:
    """Return the plural of a lower-case singular noun."""
    head, joint, last = word.rpartition("_")
    return head + joint + _plural(last)


def is_plural(word: str) -> bool:
    """Whether a lower-case noun names several things, or cannot say."""
    return word in UNCOUNTABLE or singular(word) != word


def snake(text: str) -> str:
    """Return the text as a lower-case ASCII identifier of at most 30 characters; "" when nothing is left."""
    plain = unicodedata.normalize("NFKD", text.translate(_UMLAUTS)).encode("ascii", "ignore").decode()
    parted = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", plain).lower()
    return re.sub(r"[^a-z0-9]+", "_", parted).lstrip("_0123456789")[:30].strip("_")


def class_name(noun: str) -> str:
    """Return the CamelCase class for a noun, never one that the generated modules use otherwise."""
    name = "".join(part.capitalize() for part in snake(noun).split("_"))
    return f"{name}Record" if name in TAKEN_CLASSES or keyword.iskeyword(name) else name


def noun_of(name: str) -> str:
    """Return the noun that `class_name` made this class from: `SessionRecord` is a session."""
    bare = name.removesuffix("Record")
    return snake(bare if class_name(bare) == name else name)


def field_name(text: str, owner: str) -> str:
    """Return a safe attribute name: a taken one gets its owner in front, as `book_type` for `type`."""
    name = snake(text)
    taken = name in TAKEN_FIELDS or keyword.iskeyword(name) or name.startswith(("model_", "parse_"))
    return f"{owner}_{name}" if name and taken else name


def variable(noun: str) -> str:
    """Return a safe local variable for one of these."""
    taken = noun in TAKEN_VARIABLES | TAKEN_FIELDS or keyword.iskeyword(noun)
    return f"{noun}_" if taken else noun


def spaced(noun: str) -> str:
    """Return an identifier as words: `blog post`."""
    return noun.replace("_", " ")


def article(noun: str) -> str:
    """Return the noun as words with its indefinite article: `an audit log`; none where it has no plural."""
    if noun in UNCOUNTABLE:
        return spaced(noun)
    return f"{'an' if noun[:1] in set('aeio') else 'a'} {spaced(noun)}"


def _singular(word: str) -> str:
    if word in _SINGULARS:
        return _SINGULARS[word]
    if word in UNCOUNTABLE or word in PLURALS or len(word) < 3:
        return word
    if word.endswith("ies"):
        return word[:-3] + "y" if len(word) > 4 else word[:-1]
    if word.endswith(("sses", "shes", "ches", "xes")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _plural(word: str) -> str:
    if word in UNCOUNTABLE or word in PLURALS:
        return PLURALS.get(word, word)
    if word.endswith("y") and word[-2:-1] not in set("aeiou"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")
