"""Whether a model fits, before it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from providers.errors import NotReady
from providers.mlx.memory import GIB, Needs, Plan, free_bytes, plan, read_needs

SMALL = Needs(stored=2 * GIB, as_float32=14 * GIB, kv_numbers_per_token=32_768, context=4096)


def write_model(folder: Path, config: dict[str, Any], tensors: dict[str, Any]) -> Path:
    head = json.dumps({"__metadata__": {}, **tensors}).encode()
    (folder / "model.safetensors").write_bytes(len(head).to_bytes(8, "little") + head)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_off_metal_weights_become_float32_where_they_fit() -> None:
    roomy = plan(SMALL, 20 * GIB, metal=False)
    tight = plan(SMALL, 8 * GIB, metal=False)

    assert roomy.to_float32
    assert roomy.kv_bytes == 2 * GIB
    assert not tight.to_float32


def test_on_metal_weights_stay_as_they_are_and_the_cache_is_half_as_large() -> None:
    made = plan(SMALL, 20 * GIB, metal=True)

    assert not made.to_float32
    assert made.kv_bytes_per_token == 65_536


def test_a_model_that_does_not_fit_is_refused_with_figures() -> None:
    with pytest.raises(
        NotReady, match=r"2\.00 GiB .* 0\.50 GiB .* 4096 tokens; 1\.60 GiB .* of 2\.00 GiB"
    ) as told:
        plan(SMALL, 2 * GIB, metal=False)

    assert told.value.provider == "mlx"


def test_requests_in_a_batch_each_take_what_the_longest_takes() -> None:
    made = Plan(to_float32=False, kv_bytes=4 * 1024, kv_bytes_per_token=1, context=None)

    assert made.fits([1024, 1, 1, 1])
    assert not made.fits([1024, 1, 1, 1, 1])
    assert made.fits([256] * 16)
    assert not made.fits([257] * 16)


def test_needs_are_read_from_the_config_and_the_heads_of_the_weights(tmp_path: Path) -> None:
    config = {
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "hidden_size": 64,
        "max_position_embeddings": 2048,
        "quantization": {"bits": 4, "group_size": 32, "b": {"bits": 8, "group_size": 32}},
    }
    tensors = {
        "norm.weight": {"dtype": "BF16", "shape": [64]},
        "a.weight": {"dtype": "U32", "shape": [64, 8]},
        "b.weight": {"dtype": "U32", "shape": [64, 16]},
    }

    needs = read_needs(write_model(tmp_path, config, tensors))

    assert needs.as_float32 == 4 * (64 + 64 * 64 + 64 * 64)
    assert needs.kv_numbers_per_token == 2 * 2 * 2 * 16
    assert needs.context == 2048
    assert needs.stored == (tmp_path / "model.safetensors").stat().st_size


def test_needs_of_the_language_part_of_a_model_that_also_sees(tmp_path: Path) -> None:
    nested = {"num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8, "max_position_embeddings": 512}

    needs = read_needs(write_model(tmp_path, {"text_config": nested}, {}))

    assert (needs.kv_numbers_per_token, needs.context) == (2 * 1 * 2 * 8, 512)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x02\0\0\0\0\0\0\0[]"])
def test_a_weight_file_that_is_none_is_told(tmp_path: Path, content: bytes) -> None:
    write_model(tmp_path, {}, {})
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(NotReady, match="cannot be read"):
        read_needs(tmp_path)


def test_free_memory_is_some_and_not_more_than_a_machine_has() -> None:
    assert 0 < free_bytes() < 2**50
