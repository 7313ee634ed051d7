"""Trains E-MMDiT and its Llama-architecture text encoder together, by flow matching on stored latents.

The loss is |v(x_sigma, text) - (noise - x0)|^2 with logit-normal timesteps (EMMDiT's recipe: arXiv 2510.27135,
section 4). Batches, noise and dropped captions are functions of (seed, step): a run that was stopped goes on exactly
as if it had not been. Shapes: latents (b, c, h, w), token ids and masks (b, t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from model.bundle import read_bundle
from model.config import ModelConfig
from model.schedule import NUM_TRAIN_TIMESTEPS
from model.training.dataset import load_records
from model.training.loop import TrainingLoop
from model.training.tokenizer import build_tokenizer
from model.transformer import EMMDiT
from model.weights import load_transformer


@dataclass(frozen=True, slots=True)
class DenoiserTrainConfig:
    """One training run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `objects` narrows the dataset to scenes that show nothing else; empty means all. `start_from` is a bundle whose
    network and text encoder a new run begins with; its latents must come from that bundle's autoencoder.
    """

    dataset: Path
    latents: Path
    out_dir: Path
    objects: tuple[str, ...] = ()
    start_from: Path | None = None
    num_attention_heads: int = 6
    attention_head_dim: int = 32
    stages: tuple[int, int, int] = (1, 6, 1)
    num_text_tokens: int = 10
    text_hidden_size: int = 128
    text_layers: int = 2
    batch_size: int = 64
    max_steps: int = 1_000_000
    max_minutes: float = math.inf
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    decay_from: float = 0.6
    weight_decay: float = 0.03
    max_grad_norm: float = 1.0
    ema_decay: float = 0.999
    caption_dropout: float = 0.1
    is_compiled: bool = False
    num_threads: int = 2
    seed: int = 0
    report_every: int = 50
    checkpoint_every: int = 250

    @property
    def checkpoint(self) -> Path:
        """The file that a run continues from."""
        return self.out_dir / "denoiser.checkpoint.safetensors"

    def architecture(self, latent_shape: Sequence[int]) -> ModelConfig:
        """The network for latents (c, h, w). Small grids carry no subregions: their tokens don't divide by 16."""
        channels, size, _ = latent_shape
        return ModelConfig(
            sample_size=size,
            in_channels=channels,
            num_attention_heads=self.num_attention_heads,
            attention_head_dim=self.attention_head_dim,
            stages=self.stages,
            caption_channels=self.text_hidden_size,
            num_text_tokens=self.num_text_tokens,
            use_sub_attn=size % 16 == 0 and self.num_text_tokens % 16 == 0,
            pos_embed_max_size=size,
        )


class TextToVelocity(nn.Module):
    """Text encoder and network as one module, so that one optimiser and one average hold both."""

    def __init__(self, config: DenoiserTrainConfig, latent_shape: Sequence[int], num_words: int) -> None:
        super().__init__()
        llama = LlamaConfig(
            vocab_size=num_words,
            hidden_size=config.text_hidden_size,
            intermediate_size=3 * config.text_hidden_size,
            num_hidden_layers=config.text_layers,
            num_attention_heads=config.text_hidden_size // 32,
            num_key_value_heads=config.text_hidden_size // 32,
            max_position_embeddings=config.num_text_tokens,
            bos_token_id=1,
            eos_token_id=0,
            pad_token_id=0,
            tie_word_embeddings=True,
        )
        self.text = LlamaModel(llama)
        self.transformer = EMMDiT(config.architecture(latent_shape))
        initialize(self.transformer)

    def forward(self, latents: Tensor, ids: Tensor, mask: Tensor, timestep: Tensor) -> Tensor:
        """Velocity (b, c, h, w)."""
        embeddings = self.text(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        velocity: Tensor = self.transformer(latents, embeddings, timestep)
        return velocity


def initialize(transformer: EMMDiT) -> None:
    """Xavier weights, and an output and modulation that begin at zero velocity and open gates of one."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.flatten(1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.adaln_single.linear.weight)
    for name, table in transformer.named_parameters():
        if name.endswith(("scale_shift_bias", "scale_shift_bias_c")):
            with torch.no_grad():
                table[2], table[5] = 1.0, 1.0  # the gates: shift, scale, gate, shift, scale, gate


@dataclass(frozen=True, slots=True)
class LatentDataset:
    """Latents (N, c, h, w) float16, memory-mapped, with token ids and masks (N, t) and the empty caption's."""

    latents: np.ndarray
    ids: Tensor
    mask: Tensor
    empty_ids: Tensor
    empty_mask: Tensor
    num_words: int


def open_latents(config: DenoiserTrainConfig) -> LatentDataset:
    """Latents and captions of the scenes that show only `config.objects`. Raises ValueError where none does."""
    stored = np.load(config.latents, mmap_mode="r")
    wanted = frozenset(config.objects)
    kept, captions = [], []
    for index, record in zip(range(len(stored)), load_records(config.dataset), strict=False):
        if not wanted or all(name in wanted for name, _, _ in record.objects):
            kept.append(index)
            captions.append(record.caption)
    if not kept:
        raise ValueError(f"{config.dataset} holds no scene of only {sorted(wanted)}")
    tokenizer = build_tokenizer(config.num_text_tokens)
    padded = {"padding": "max_length", "max_length": config.num_text_tokens, "truncation": True, "return_tensors": "pt"}
    tokens, empty = tokenizer(captions, **padded), tokenizer("", **padded)
    return LatentDataset(
        latents=stored[kept],
        ids=tokens["input_ids"],
        mask=tokens["attention_mask"],
        empty_ids=empty["input_ids"],
        empty_mask=empty["attention_mask"],
        num_words=len(tokenizer),
    )


def build_loop(config: DenoiserTrainConfig, data: LatentDataset) -> TrainingLoop:
    """A fresh run on `data`, seeded by the configuration. Raises TensorFileError where `start_from` does not fit."""
    torch.manual_seed(config.seed)
    model = TextToVelocity(config, data.latents.shape[1:], data.num_words)
    if config.start_from is not None:
        bundle = read_bundle(config.start_from)
        network = load_transformer(bundle.parts.transformer, model.transformer.config, dtype=torch.float32)
        model.transformer.load_state_dict(network.state_dict())
        text = LlamaModel.from_pretrained(bundle.parts.text_encoder, dtype=torch.float32, local_files_only=True)
        model.text.load_state_dict(text.state_dict())
    if config.is_compiled:
        model.transformer.compile(dynamic=False)

    def objective(step: int) -> tuple[Tensor, Tensor]:
        loss = flow_matching_loss(model, config, data, step)
        return loss, loss.detach()

    return TrainingLoop(model, config, objective)


def flow_matching_loss(model: TextToVelocity, config: DenoiserTrainConfig, data: LatentDataset, step: int) -> Tensor:
    """The loss of step number `step`'s batch."""
    source = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
    chosen = torch.randint(len(data.ids), (config.batch_size,), generator=source)
    clean = torch.from_numpy(data.latents[chosen.numpy()]).float()
    is_dropped = (torch.rand(config.batch_size, generator=source) < config.caption_dropout)[:, None]
    ids = torch.where(is_dropped, data.empty_ids, data.ids[chosen])
    mask = torch.where(is_dropped, data.empty_mask, data.mask[chosen])
    sigma = torch.sigmoid(torch.randn(config.batch_size, generator=source))
    noise = torch.randn(clean.shape, generator=source)
    noisy = torch.lerp(clean, noise, sigma[:, None, None, None])
    velocity = model(noisy, ids, mask, sigma * NUM_TRAIN_TIMESTEPS)
    loss: Tensor = (velocity - (noise - clean)).square().mean()
    return loss


def train_denoiser(
    config: DenoiserTrainConfig,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train, or go on training; returns the checkpoint, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises FileNotFoundError where dataset or latents are missing.
    """
    torch.set_num_threads(config.num_threads)
    data = open_latents(config)
    loop = build_loop(config, data)
    report(f"{len(data.ids)} scenes, {sum(p.numel() for p in loop.parameters) / 1e6:.2f} M parameters")
    return config.checkpoint if loop.run({}, report=report, should_stop=should_stop) else None
