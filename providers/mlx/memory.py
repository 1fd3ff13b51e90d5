"""Whether a model fits into memory, known before it is loaded: MLX itself has no limit that holds.

A model that is too large for a Mac can take the whole machine down, so what runs is bounded by admission: weights
before loading, and the KV cache of each request before it joins the batch.
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.errors import NotReady
from providers.mlx.question import NAME

GIB = 1024**3
FRACTION = 0.8
"""How much of the free memory a model and its KV cache may take; the rest is for activations and everybody else."""
USUAL_TOKENS = 8192
"""Prompt and answer of a usual request. A model that has no room for one beside its weights is not loaded."""
KV_STEP = 256
"""mlx_lm lets a KV cache grow by so many tokens at a time."""

_WIDTHS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "U64": 8,
    "I32": 4,
    "U32": 4,
    "I16": 2,
    "U16": 2,
}
_FLOATS = {"F64", "F32", "F16", "BF16"}
_FLOAT32 = 4


@dataclass(frozen=True, slots=True)
class Needs:
    """What a model takes: bytes of weights as stored and as float32, numbers in the KV cache for each token.

    `context` is how many tokens it can attend to; None where its config does not say.
    """

    stored: int
    as_float32: int
    kv_numbers_per_token: int
    context: int | None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is going to be loaded, and what is left for its KV cache."""

    to_float32: bool
    kv_bytes: int
    kv_bytes_per_token: int
    context: int | None

    def fits(self, totals: list[int]) -> bool:
        """Whether requests of so many tokens each fit together: in a batch, each takes what the longest takes."""
        longest = math.ceil(max(totals) / KV_STEP) * KV_STEP
        return len(totals) * longest * self.kv_bytes_per_token <= self.kv_bytes


def plan(needs: Needs, free: int, *, metal: bool) -> Plan:
    """Decide how a model is loaded into so many free bytes.

    Off Metal the weights become float32 where they fit: on a CPU that is several times faster than any other type.

    Raises:
        NotReady: There is no room for it; the message has the figures.
    """
    usable = int(free * FRACTION)
    tokens = min(USUAL_TOKENS, needs.context or USUAL_TOKENS)
    for to_float32 in (True, False) if not metal else (False,):
        weights = needs.as_float32 if to_float32 else needs.stored
        per_token = needs.kv_numbers_per_token * (2 if metal else _FLOAT32)
        if weights + tokens * per_token <= usable:
            return Plan(to_float32, usable - weights, per_token, needs.context)
    raise NotReady(
        f"the model needs {needs.stored / GIB:.2f} GiB for its weights and {tokens * per_token / GIB:.2f} GiB for a "
        f"request of {tokens} tokens; {usable / GIB:.2f} GiB may be used of {free / GIB:.2f} GiB that are free: "
        "use a smaller or more quantised model",
        NAME,
    )


def read_needs(folder: Path) -> Needs:
    """Read what a model takes from its config and the heads of its weight files.

    Raises:
        NotReady: They cannot be read.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        tensors = [tensor for file in folder.glob("model*.safetensors") for tensor in _tensors(file)]
        stored = sum(file.stat().st_size for file in folder.glob("model*.safetensors"))
        as_float32 = _FLOAT32 * sum(_numbers(name, head, config) for name, head in tensors)
        return Needs(stored, as_float32, _kv_numbers(_text(config)), _context(_text(config)))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotReady(f"the model in {folder} cannot be read: {error}"[:300], NAME) from error


def free_bytes() -> int:
    """Return how much memory this process could still take, swap aside; on a Mac, what the machine has."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([physical, *_meminfo(Path("/proc/meminfo")), *_cgroup(Path("/sys/fs/cgroup"))])


def on_metal() -> bool:
    """Whether MLX would use a GPU here, told without importing it."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def _meminfo(file: Path) -> Iterator[int]:
    if file.exists():
        fields = dict(line.split(":", 1) for line in file.read_text().splitlines())
        yield int(fields["MemAvailable"].split()[0]) * 1024


def _cgroup(root: Path) -> Iterator[int]:
    """Yield what the limit of a container leaves (cgroup v2, v1); page cache counts as used, which is careful."""
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        if (root / limit).exists() and (most := (root / limit).read_text().strip()) != "max":
            yield max(0, int(most) - int((root / used).read_text()))


def _tensors(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield name and description of each tensor: 8 bytes length, then JSON (https://huggingface.co/docs/safetensors)."""
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if length > file.stat().st_size:
            raise ValueError(f"{file.name} is not a safetensors file")
        head: dict[str, Any] = json.loads(opened.read(length))
    yield from ((name, tensor) for name, tensor in head.items() if name != "__metadata__")


def _numbers(name: str, tensor: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many numbers a tensor holds; packed ones (U32) hold several in each of theirs."""
    count: int = math.prod(tensor["shape"])
    quantization = config.get("quantization")
    if tensor["dtype"] not in {"U32", "I32"} or not quantization:
        return count if tensor["dtype"] in _FLOATS else count * _WIDTHS.get(tensor["dtype"], 1) // _FLOAT32
    own = quantization.get(name.removesuffix(".weight"))
    bits: int = (own if isinstance(own, Mapping) else quantization)["bits"]
    return count * 32 // bits


def _text(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that is about the language model."""
    nested = config.get("text_config")
    return {**config, **nested} if isinstance(nested, Mapping) else config


def _kv_numbers(config: Mapping[str, Any]) -> int:
    """Return how many numbers a token puts into the KV cache at most: sliding windows and the like take less."""
    layers = _first(config, "num_hidden_layers", "n_layer", "n_layers") or 0
    heads = _first(config, "num_attention_heads", "n_head", "n_heads") or 0
    if not heads:
        return 0
    hidden = _first(config, "hidden_size", "n_embd", "d_model") or 0
    of_keys = _first(config, "num_key_value_heads") or heads
    return 2 * layers * of_keys * (_first(config, "head_dim") or hidden // heads)


def _context(config: Mapping[str, Any]) -> int | None:
    return _first(config, "max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


def _first(config: Mapping[str, Any], *names: str) -> int | None:
    found = (config[name] for name in names if isinstance(config.get(name), int))
    return next(found, None)
