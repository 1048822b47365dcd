"""GGUF models with some ten thousand random weights, created in milliseconds.

They have features that no small real model has. llama.cpp loads and runs them as any other model.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter, PoolingType, TokenType

EMBEDDING, HIDDEN, HEADS, CONTEXT = 32, 64, 2, 512
_MIDDLE = ("<fim_pre>", "<fim_suf>", "<fim_mid>")


def make_llama(path: Path, *, fills_in: bool = False, chat_template: str | None = None) -> Path:
    """Write a llama model with bytes as tokens; with `fills_in` it supports infill."""
    special = ["<unk>", "<s>", "</s>", *(_MIDDLE if fills_in else ())]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    kinds = [TokenType.UNKNOWN, *[TokenType.CONTROL] * (len(special) - 1), *[TokenType.BYTE] * 256]
    writer = GGUFWriter(path, "llama")
    _write_sizes(writer)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(EMBEDDING // HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    if fills_in:
        for name, place in zip(("pre", "suf", "mid"), _MIDDLE, strict=True):
            writer.add_uint32(f"tokenizer.ggml.fim_{name}_token_id", tokens.index(place))
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), EMBEDDING),
        "output.weight": (len(tokens), EMBEDDING),
        "output_norm.weight": (EMBEDDING,),
        "blk.0.attn_norm.weight": (EMBEDDING,),
        "blk.0.ffn_norm.weight": (EMBEDDING,),
        "blk.0.ffn_gate.weight": (HIDDEN, EMBEDDING),
        "blk.0.ffn_up.weight": (HIDDEN, EMBEDDING),
        "blk.0.ffn_down.weight": (EMBEDDING, HIDDEN),
        **{f"blk.0.attn_{part}.weight": (EMBEDDING, EMBEDDING) for part in ("q", "k", "v")},
        "blk.0.attn_output.weight": (EMBEDDING, EMBEDDING),
    }
    return _write(writer, shapes, path)


def make_reranker(path: Path) -> Path:
    """Write a BERT model for reranking, with letters as tokens."""
    letters = [*string.ascii_lowercase, *string.digits]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokens = [*special, *(f"\u2581{letter}" for letter in letters), *letters]
    writer = GGUFWriter(path, "bert")
    _write_sizes(writer)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(PoolingType.RANK)
    writer.add_classifier_output_labels(["score"])
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(
        [TokenType.CONTROL] * len(special) + [TokenType.NORMAL] * 2 * len(letters)
    )
    writer.add_token_type_count(2)
    writer.add_pad_token_id(0)
    writer.add_unk_token_id(1)
    writer.add_uint32("tokenizer.ggml.cls_token_id", 2)
    writer.add_bos_token_id(2)
    writer.add_sep_token_id(3)
    writer.add_eos_token_id(3)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), EMBEDDING),
        "token_types.weight": (2, EMBEDDING),
        "position_embd.weight": (CONTEXT, EMBEDDING),
        "cls.weight": (EMBEDDING, EMBEDDING),
        "cls.bias": (EMBEDDING,),
        "cls.output.weight": (1, EMBEDDING),
        "cls.output.bias": (1,),
    }
    for norm in ("token_embd_norm", "blk.0.attn_output_norm", "blk.0.layer_output_norm"):
        shapes |= {f"{norm}.weight": (EMBEDDING,), f"{norm}.bias": (EMBEDDING,)}
    for part in ("q", "k", "v", "output"):
        shapes[f"blk.0.attn_{part}.weight"] = (EMBEDDING, EMBEDDING)
        shapes[f"blk.0.attn_{part}.bias"] = (EMBEDDING,)
    shapes |= {"blk.0.ffn_up.weight": (HIDDEN, EMBEDDING), "blk.0.ffn_up.bias": (HIDDEN,)}
    shapes |= {"blk.0.ffn_down.weight": (EMBEDDING, HIDDEN), "blk.0.ffn_down.bias": (EMBEDDING,)}
    return _write(writer, shapes, path)


def _write_sizes(writer: GGUFWriter) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(EMBEDDING)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)


def _write(writer: Any, shapes: dict[str, tuple[int, ...]], path: Path) -> Path:
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        weights = random.normal(1.0 if "norm" in name else 0.0, 0.1, shape)
        writer.add_tensor(name, weights.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
