"""The smallest JSON value that a JSON Schema allows, made up from the schema alone."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

import jsonschema

_DEPTH = 60
_TYPED_BY = {
    "object": ("properties", "required", "minProperties"),
    "array": ("items", "prefixItems", "minItems"),
    "string": ("pattern", "minLength", "maxLength", "format"),
    "number": ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
_FORMATS = {
    "date": "2000-01-01",
    "date-time": "2000-01-01T00:00:00Z",
    "email": "simulated@example.com",
    "time": "00:00:00Z",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}
_GUESSES = ("", "a", "A", "0", "/", "aa", "a-a", "a_a", "a.py", "0.0.1", "a@a.aa", "https://a.aa/")


class NoInstanceError(ValueError):
    """No value was found that fits the schema."""


def smallest_instance(schema: Mapping[str, Any]) -> Any:
    """Make a small value that is valid against the schema (2020-12, references within the document).

    Raises:
        NoInstanceError: There is none, or none that this simple construction finds (`not`, odd patterns).
    """
    try:
        jsonschema.Draft202012Validator.check_schema(schema)
        value = _Maker(schema).make(schema)
        jsonschema.validate(value, schema)
    except jsonschema.SchemaError as error:
        raise NoInstanceError(f"this is no JSON Schema: {error.message[:200]}") from error
    except jsonschema.ValidationError as error:
        raise NoInstanceError(f"no value found for {error.json_path}: {error.message[:200]}") from error
    return value


class _Maker:
    """Makes values for the schemas of one document; `nth` asks for the nth different one."""

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._document = document

    def make(self, schema: Any, nth: int = 0, depth: int = 0) -> Any:
        if depth > _DEPTH:
            raise NoInstanceError("the schema refers to itself without end")
        if isinstance(schema, bool):
            return nth
        if "$ref" in schema or "allOf" in schema:
            return self.make(self._merged(schema), nth, depth + 1)
        for fixed in ("const", "enum"):
            if fixed in schema:
                return schema[fixed] if fixed == "const" else _pick(schema["enum"], nth)
        for choice in ("anyOf", "oneOf"):
            if choice in schema:
                return self._one_of(schema, choice, nth, depth + 1)
        return self._typed(schema, nth, depth + 1)

    def _merged(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """Return the schema with its reference and its `allOf` taken into it."""
        parts = [dict(part) for part in schema.get("allOf", ()) if isinstance(part, Mapping)]
        if "$ref" in schema:
            parts.append(self._resolve(schema["$ref"]))
        merged = {key: value for key, value in schema.items() if key not in {"$ref", "allOf"}}
        for part in parts:
            merged = _both(merged, part)
        return merged

    def _resolve(self, reference: str) -> dict[str, Any]:
        target: Any = self._document
        try:
            for part in reference.removeprefix("#").split("/")[1:]:
                target = target[part.replace("~1", "/").replace("~0", "~")]
            return dict(target)
        except (KeyError, TypeError, ValueError) as error:
            raise NoInstanceError(f"{reference} names nothing in the schema") from error

    def _one_of(self, schema: Mapping[str, Any], choice: str, nth: int, depth: int) -> Any:
        """Return a value of the first branch that has one; null first, for it ends any recursion."""
        rest = {key: value for key, value in schema.items() if key != choice}
        branches = sorted(schema[choice], key=lambda branch: branch != {"type": "null"})
        for branch in branches:
            try:
                return self.make(_both(rest, branch), nth, depth)
            except NoInstanceError:
                continue
        raise NoInstanceError(f"no branch of {choice} has a value")

    def _typed(self, schema: Mapping[str, Any], nth: int, depth: int) -> Any:
        kind = _type_of(schema)
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return self._array(schema, depth)
        if kind == "string":
            return _string(schema, nth)
        if kind in {"integer", "number"}:
            return _number(schema, nth, whole=kind == "integer")
        return bool(nth % 2) if kind == "boolean" else None

    def _object(self, schema: Mapping[str, Any], depth: int) -> dict[str, Any]:
        known = schema.get("properties", {})
        other = schema.get("additionalProperties", True)
        least = schema.get("minProperties", 0)
        names = list(dict.fromkeys(schema.get("required", ())))
        spare = (*known, *(f"simulated_{number}" for number in range(least)))
        names += [name for name in spare if name not in names][: max(0, least - len(names))]
        return {name: self.make(known.get(name, other), 0, depth) for name in names}

    def _array(self, schema: Mapping[str, Any], depth: int) -> list[Any]:
        heads: Sequence[Any] = schema.get("prefixItems", ())
        rest, unique = schema.get("items", True), schema.get("uniqueItems", False)
        schemas = [heads[at] if at < len(heads) else rest for at in range(schema.get("minItems", 0))]
        return [self.make(item, at if unique else 0, depth) for at, item in enumerate(schemas)]


def _both(one: Mapping[str, Any], other: Any) -> dict[str, Any]:
    """Return a schema that asks for what both ask for."""
    other = other if isinstance(other, Mapping) else {}
    merged = {**other, **one}
    if "properties" in one and "properties" in other:
        merged["properties"] = {**other["properties"], **one["properties"]}
    if "required" in one and "required" in other:
        merged["required"] = [*other["required"], *one["required"]]
    for key, strictest in (("minimum", max), ("minLength", max), ("minItems", max), ("maximum", min)):
        if key in one and key in other:
            merged[key] = strictest(one[key], other[key])
    return merged


def _type_of(schema: Mapping[str, Any]) -> str:
    named = schema.get("type")
    if isinstance(named, list):
        return str(named[0])
    if isinstance(named, str):
        return named
    return next((kind for kind, keys in _TYPED_BY.items() if any(key in schema for key in keys)), "null")


def _pick(values: Sequence[Any], nth: int) -> Any:
    return values[min(nth, len(values) - 1)]


def _number(schema: Mapping[str, Any], nth: int, *, whole: bool) -> float:
    """Return the nth allowed number near 0, or near the bound that keeps it from 0."""
    low = max(schema.get(key, -math.inf) for key in ("minimum", "exclusiveMinimum"))
    high = min(schema.get(key, math.inf) for key in ("maximum", "exclusiveMaximum"))
    step = schema.get("multipleOf", 1)
    nearest = math.floor(max(low, min(high, 0)) / step)
    steps = sorted(range(nearest - nth - 2, nearest + nth + 3), key=abs)
    between = () if whole or math.isinf(low + high) else (low, (low + high) / 2, high)
    allowed = [value for value in (*(count * step for count in steps), *between) if _in_bounds(value, schema)]
    if len(allowed) <= nth:
        raise NoInstanceError(f"no number found between {low} and {high}")
    return cast("float", allowed[nth])


def _in_bounds(value: float, schema: Mapping[str, Any]) -> bool:
    minimum, above = (schema.get(key, -math.inf) for key in ("minimum", "exclusiveMinimum"))
    maximum, below = (schema.get(key, math.inf) for key in ("maximum", "exclusiveMaximum"))
    return bool(minimum <= value <= maximum) and bool(above < value < below)


def _string(schema: Mapping[str, Any], nth: int) -> str:
    if schema.get("format") in _FORMATS and not nth:
        return _FORMATS[schema["format"]]
    low, high, pattern = (
        schema.get("minLength", 0),
        schema.get("maxLength", math.inf),
        schema.get("pattern", ""),
    )
    guesses = _GUESSES if not nth else (str(nth),)
    for guess in (*guesses, *(guess + "a" * (low - len(guess)) for guess in guesses)):
        if low <= len(guess) <= high and re.search(pattern, guess):
            return str(guess)
    raise NoInstanceError(f"no text found for the pattern {pattern}")
