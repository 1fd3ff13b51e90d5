"""What a project consists of, in the words of the plan: fields, entities, endpoints. Plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass, replace

from providers.scaffold import words


@dataclass(frozen=True, slots=True)
class Field:
    """One attribute of an entity; `type` is one of the plan's type names."""

    name: str
    type: str = "string"
    required: bool = True


@dataclass(frozen=True, slots=True)
class Entity:
    """A thing that the project stores, named in the singular as an identifier: `blog_post`."""

    noun: str
    fields: tuple[Field, ...]

    @property
    def name(self) -> str:
        """The class: `BlogPost`."""
        return words.class_name(self.noun)

    def has(self, name: str) -> bool:
        """Whether a field of that name exists."""
        return any(field.name == name for field in self.fields)

    def with_field(self, field: Field) -> Entity:
        """Return the entity with that field too, unless it has one of the name."""
        return self if self.has(field.name) else replace(self, fields=(*self.fields, field))


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One HTTP route; `entity` is the class of what it works on, "" where there is none."""

    method: str
    path: str
    entity: str = ""
