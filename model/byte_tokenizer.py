"""A tokenizer that needs no training: one token a byte. For stand-ins; the published tokenizer is gated.

Written as the tokenizers library's own file format, so that it loads like any other. It adds the begin-of-text token
in front, as Llama's does.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_BOS, _EOS = "<|begin_of_text|>", "<|end_of_text|>"


def write_byte_tokenizer(folder: Path, bos_id: int, eos_id: int) -> None:
    """Write it into `folder`: ids 0..255 for the bytes, and the two special tokens where the model expects them."""
    # The byte alphabet of byte-level BPE: printable Latin-1 bytes stand for themselves, the rest for U+0100 upwards.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet |= {chr(0x100 + index): byte for index, byte in enumerate(others)}
    special = [
        {
            "id": token_id,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, token_id in ((_BOS, bos_id), (_EOS, eos_id))
    ]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    _write(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": special,
            "normalizer": None,
            "pre_tokenizer": byte_level,
            "post_processor": {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": _BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {_BOS: {"id": _BOS, "ids": [bos_id], "tokens": [_BOS]}},
            },
            "decoder": byte_level,
            "model": {"type": "BPE", "vocab": alphabet | {_BOS: bos_id, _EOS: eos_id}, "merges": []},
        },
    )
    _write(
        folder / "tokenizer_config.json",
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _BOS, "eos_token": _EOS},
    )


def _write(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, ensure_ascii=False) + "\n", "utf-8")
