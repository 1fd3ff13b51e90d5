"""Turn a GGUF file of a small Llama into folders that mlx_lm loads. A script: MLX stays out of the tests' process.

    python gguf.py MODEL.gguf FLOAT32_FOLDER PACKED_FOLDER

GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. MLX reads it, and keeps Q4 and Q8 blocks packed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import mlx.core as mx
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

BLOCK = 32
CONTROL, USER_DEFINED = 3, 4
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
INSIDE = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

Weights = dict[str, Any]


def main(source: Path, float32: Path, packed: Path) -> None:
    weights, meta = mx.load(str(source), return_metadata=True)
    weights = {new_name(name): weight for name, weight in weights.items()}
    for name, weight in weights.items():
        if ".q_proj." in name or ".k_proj." in name:
            count = meta["llama.attention.head_count" + ("_kv" if ".k_proj." in name else "")]
            weights[name] = rows_in_halves(weight, int(count))
    blocks = {
        name.removesuffix(".scales"): bits_of(weights, name) for name in weights if name.endswith(".scales")
    }
    write(float32, unpacked(weights, blocks), meta, {})
    write(packed, weights, meta, blocks)


def new_name(name: str) -> str:
    """Return a tensor's name as Hugging Face's Llama has it."""
    stem, _, kind = name.rpartition(".")
    if stem in OUTSIDE:
        return f"{OUTSIDE[stem]}.{kind}"
    _, layer, part = stem.split(".")
    return f"model.layers.{layer}.{INSIDE[part]}.{kind}"


def rows_in_halves(weight: Any, heads: int) -> Any:
    """GGUF interleaves the two halves that RoPE turns; only rows move, so packed weights and scales do as well."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def bits_of(weights: Weights, scales: str) -> int:
    packed = weights[scales.replace(".scales", ".weight")].shape[1]
    return packed * 32 // (weights[scales].shape[1] * BLOCK)


def unpacked(weights: Weights, blocks: dict[str, int]) -> Weights:
    wide = {
        name: weight if weight.dtype == mx.uint32 else weight.astype(mx.float32)
        for name, weight in weights.items()
    }
    plain = {name: weight for name, weight in wide.items() if name.rpartition(".")[0] not in blocks}
    for stem, bits in blocks.items():
        parts = (wide[f"{stem}.{part}"] for part in ("weight", "scales", "biases"))
        plain[f"{stem}.weight"] = mx.dequantize(*parts, group_size=BLOCK, bits=bits)
    return plain


def write(folder: Path, weights: Weights, meta: dict[str, Any], blocks: dict[str, int]) -> None:
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), weights, metadata={"format": "mlx"})
    (folder / "config.json").write_text(json.dumps(config(weights, meta, blocks)))
    tokens = meta["tokenizer.ggml.tokens"]
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(tokens, meta)))
    tokenizer(tokens, meta).save(str(folder / "tokenizer.json"))


def config(weights: Weights, meta: dict[str, Any], blocks: dict[str, int]) -> dict[str, Any]:
    def of(name: str) -> Any:
        return meta[f"llama.{name}"].item()

    default = {"group_size": BLOCK, "bits": 4}
    each = {stem: {"group_size": BLOCK, "bits": bits} for stem, bits in blocks.items()}
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": of("embedding_length"),
        "intermediate_size": of("feed_forward_length"),
        "num_hidden_layers": of("block_count"),
        "num_attention_heads": of("attention.head_count"),
        "num_key_value_heads": of("attention.head_count_kv"),
        "max_position_embeddings": of("context_length"),
        "rms_norm_eps": of("attention.layer_norm_rms_epsilon"),
        "rope_theta": of("rope.freq_base"),
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        "tie_word_embeddings": "lm_head.weight" not in weights,
        "eos_token_id": meta["tokenizer.ggml.eos_token_id"].item(),
        **({"quantization": default | each} if blocks else {}),
    }


def tokenizer(tokens: list[str], meta: dict[str, Any]) -> Tokenizer:
    if (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"]) != ("gpt2", "smollm"):
        raise SystemExit("only the tokenizer of SmolLM is known here")
    merges = [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]]
    made = Tokenizer(BPE({token: number for number, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    kinds = meta["tokenizer.ggml.token_type"].tolist()
    added = [
        (token, kind == CONTROL)
        for token, kind in zip(tokens, kinds, strict=True)
        if kind in {CONTROL, USER_DEFINED}
    ]
    made.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token, special in added if special]
    )
    made.add_tokens([AddedToken(token, normalized=False) for token, special in added if not special])
    return made


def tokenizer_config(tokens: list[str], meta: dict[str, Any]) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        "bos_token": tokens[meta["tokenizer.ggml.bos_token_id"].item()],
        "eos_token": tokens[meta["tokenizer.ggml.eos_token_id"].item()],
        "model_max_length": meta["llama.context_length"].item(),
        "chat_template": meta["tokenizer.chat_template"],
    }


if __name__ == "__main__":
    mx.set_default_device(mx.cpu)  # reading GGUF has no kernel for a GPU
    main(*map(Path, sys.argv[1:]))
