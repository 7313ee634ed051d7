"""Prompts to embeddings: cleaning, tokenizer, the Llama body, and a bounded cache of what it said.

The embedding is the last hidden state behind the final norm; the language-model head is neither loaded nor run.
As in training (the authors' datasets/prepare/precompute.py), prompts begin with the tokenizer's own special tokens,
are padded on the right with the end-of-text token, and the encoder, unlike the network behind it, masks the padding.
"""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from bs4 import MarkupResemblesLocatorWarning
from bs4.exceptions import ParserRejectedMarkup
from diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha import PixArtAlphaPipeline
from torch import Tensor
from transformers import AutoTokenizer, LlamaModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from model.errors import TextEncoderError
from model.tensor_file import read_header

DEFAULT_CACHE_BYTES = 256 * 2**20  # 512 prompts of the published size in bfloat16
MAX_CACHED_PROMPTS = 2048  # of small models, whose many tensors would take more than their bytes
MAX_PROMPTS_PER_FORWARD = 32
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def clean_prompt(prompt: str, is_full: bool = True) -> str:
    """The prompt as the model was taught to read it.

    `is_full` applies the cleaning of PixArt's and Sana's pipelines (twice, lower-cased; web addresses, markup, Chinese
    characters, file names and the like go); otherwise the prompt is only lower-cased and stripped, as there.
    """
    pipeline: Any = PixArtAlphaPipeline.__new__(PixArtAlphaPipeline)  # its cleaning needs no weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MarkupResemblesLocatorWarning)  # "this looks like a file name": a prompt may
        try:
            return str(pipeline._text_preprocessing(prompt, clean_caption=is_full)[0])
        except ParserRejectedMarkup:  # "<![": the published pipeline fails on these; a picture is the better answer
            return prompt.lower().strip()


def unknown_words(prompt: str, vocabulary: Sequence[str] | None) -> tuple[str, ...]:
    """Words of `prompt` that are not in a model's `vocabulary`, in order, each once; () where any text makes sense."""
    if vocabulary is None:
        return ()
    known = {word.lower() for word in vocabulary}
    return tuple(dict.fromkeys(word for word in _WORD.findall(prompt.lower()) if word not in known))


@contextmanager
def _without_progress_bar() -> Iterator[None]:
    """Keep transformers' loading bar out of the service's output."""
    was_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_shown:
            transformers_logging.enable_progress_bar()


class HeadlessLlama(LlamaModel):  # type: ignore[misc]
    """The body of a LlamaForCausalLM checkpoint. An untied head in the file is left unread, without a word."""

    _keys_to_ignore_on_load_unexpected = (r"lm_head\.",)


class TextEncoder:
    """Tokenizer, Llama body and cache on one device. Safe to share between threads, and between models.

    `num_hits` and `num_misses` count prompts looked up in the cache; the empty prompt, which every guided step
    needs, is encoded once and never evicted.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        body: LlamaModel,
        *,
        num_tokens: int,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if tokenizer.eos_token is None:
            raise TextEncoderError("the tokenizer has no end-of-text token to pad prompts with")
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        tokenizer.truncation_side = "right"
        self.num_tokens = num_tokens
        self.num_hits = 0
        self.num_misses = 0
        self._tokenizer = tokenizer
        self.body = body
        self._cache_bytes = cache_bytes
        self._cached_bytes = 0
        self._cache: OrderedDict[str, Tensor] = OrderedDict()
        self._empty: Tensor | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls,
        folder: Path,
        tokenizer_folder: Path,
        *,
        num_tokens: int,
        num_channels: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> TextEncoder:
        """Load from local folders in transformers' layout (a LlamaForCausalLM or LlamaModel checkpoint).

        Raises TextEncoderError or TensorFileError; `num_channels` is the width that the network expects.
        """
        for path in sorted(folder.glob("*.safetensors")):
            read_header(path)
        try:
            if (kind := json.loads((folder / "config.json").read_text("utf-8")).get("model_type")) != "llama":
                raise ValueError(f"config.json describes a model of type {kind!r}; only llama is served")
            tokenizer = AutoTokenizer.from_pretrained(  # nosec B615 # local
                tokenizer_folder, local_files_only=True, trust_remote_code=False
            )
            with _without_progress_bar():
                body, found = HeadlessLlama.from_pretrained(
                    folder,
                    dtype=dtype,
                    local_files_only=True,
                    use_safetensors=True,
                    trust_remote_code=False,
                    output_loading_info=True,
                )
        except Exception as error:  # what a wrong folder makes transformers raise is not documented, and varies
            raise TextEncoderError(f"{folder}: text encoder or tokenizer can't be loaded: {error}") from error
        for problem in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            if names := sorted(str(name) for name in found[problem]):
                raise TextEncoderError(f"{folder}: {len(names)} {problem.replace('_', ' ')}: {', '.join(names[:4])}")
        if body.config.hidden_size != num_channels:
            raise TextEncoderError(
                f"{folder}: the encoder is {body.config.hidden_size} wide, the network reads {num_channels}"
            )
        if len(tokenizer) > body.config.vocab_size:
            raise TextEncoderError(
                f"{tokenizer_folder}: {len(tokenizer)} tokens, but the encoder knows {body.config.vocab_size}"
            )
        body = body.to(device).eval().requires_grad_(False)
        return cls(tokenizer, body, num_tokens=num_tokens, cache_bytes=cache_bytes)

    def clean(self, prompt: str, is_full: bool = True) -> str:
        """See `clean_prompt`."""
        return clean_prompt(prompt, is_full)

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (b, num_tokens, channels) of prompts that have been cleaned already. Raises TextEncoderError.

        New ones are encoded together, each once; the rest comes from the cache.
        """
        with self._lock:
            known = {prompt: self._look_up(prompt) for prompt in dict.fromkeys(prompts)}
            new = [prompt for prompt, embedding in known.items() if embedding is None]
            for start in range(0, len(new), MAX_PROMPTS_PER_FORWARD):
                batch = new[start : start + MAX_PROMPTS_PER_FORWARD]
                for prompt, embedding in zip(batch, self._forward(batch), strict=True):
                    known[prompt] = embedding
                    self._store(prompt, embedding)
            self.num_misses += len(new)
            self.num_hits += len(prompts) - len(new)
        return torch.stack([known[prompt] for prompt in prompts])  # type: ignore[misc]

    @torch.inference_mode()
    def _forward(self, prompts: Sequence[str]) -> Tensor:
        try:
            tokens = self._tokenizer(
                list(prompts),
                padding="max_length",
                max_length=self.num_tokens,
                truncation=True,
                add_special_tokens=True,
                return_tensors="pt",
            )
        except (TypeError, ValueError, UnicodeError) as error:  # half a surrogate pair, for one
            raise TextEncoderError(f"a prompt can't be read as text: {error}") from error
        device = self.body.device
        output = self.body(
            input_ids=tokens["input_ids"].to(device),  # (b, t)
            attention_mask=tokens["attention_mask"].to(device),
            use_cache=False,
        )
        hidden: Tensor = output.last_hidden_state  # (b, t, channels), behind the final norm
        return hidden

    def _look_up(self, prompt: str) -> Tensor | None:
        if not prompt:
            return self._empty
        if prompt in self._cache:
            self._cache.move_to_end(prompt)
        return self._cache.get(prompt)

    def _store(self, prompt: str, embedding: Tensor) -> None:
        embedding = embedding.clone()  # a row of its own: a view would keep the whole batch alive
        if not prompt:
            self._empty = embedding
            return
        self._cache[prompt] = embedding
        self._cached_bytes += embedding.nbytes
        while self._cached_bytes > self._cache_bytes or len(self._cache) > MAX_CACHED_PROMPTS:
            _, evicted = self._cache.popitem(last=False)
            self._cached_bytes -= evicted.nbytes
