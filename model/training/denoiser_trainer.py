"""Trains E-MMDiT and its Llama-architecture text encoder together, by flow matching on stored latents.

The loss is |v(x_sigma, text) - (noise - x0)|^2 with logit-normal timesteps (EMMDiT's recipe: arXiv 2510.27135,
section 4). Batches, noise and dropped captions are functions of (seed, step): a run that was stopped goes on exactly
as if it had not been. Shapes: latents (b, c, h, w), token ids and masks (b, t).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from model.autoencoder import Autoencoder
from model.bundle import read_bundle
from model.config import ModelConfig
from model.engine import choose_device, choose_dtype
from model.schedule import NUM_TRAIN_TIMESTEPS
from model.text import TextEncoder
from model.training.dataset import load_records
from model.training.devices import CPU, Place, open_place
from model.training.flow_matching import add_noise, velocity_loss
from model.training.latent_data import Batch, LatentBatches, LatentDataset, example_captions
from model.training.loop import LoopOptions, TrainingLoop
from model.training.repa import open_features, projection_head, repa_loss
from model.training.sample_grid import NUM_SAMPLES, SAMPLES_NAME, SampleGrids
from model.training.tokenizer import build_tokenizer
from model.transformer import EMMDiT
from model.weights import load_transformer


@dataclass(frozen=True, slots=True)
class DenoiserTrainConfig:
    """One training run; `model.training.loop.LoopSettings` says what its budget and schedule mean.

    `objects` narrows the dataset to scenes that show nothing else; empty means all. `start_from` is a bundle whose
    network and text encoder a new run begins with; its latents must come from that bundle's autoencoder.
    `features` turns REPA on: a file of `model.training.features`, a row for each latent. A run may go on from a
    checkpoint with or without them. `autoencoder` turns sample grids on. `num_parts` forwards make a step, each with
    its part of the batch. `is_sharded` is FSDP instead of DDP, where torchrun started several processes.
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
    features: Path | None = None
    repa_weight: float = 0.5
    repa_hidden_size: int = 512
    autoencoder: Path | None = None
    sample_every_min: float = 10.0
    device: str = "auto"
    dtype: str = "auto"
    is_sharded: bool = False
    num_parts: int = 1
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
    """Text encoder and network as one module, so that one optimiser and one average hold both.

    `num_feature_channels` adds a REPA head. It comes last, so that checkpoints with and without it agree on the rest.
    """

    def __init__(
        self,
        config: DenoiserTrainConfig,
        latent_shape: Sequence[int],
        num_words: int,
        num_feature_channels: int | None = None,
    ) -> None:
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
        if num_feature_channels is not None:
            width = self.transformer.config.hidden_size
            self.projectors = nn.ModuleList([projection_head(width, config.repa_hidden_size, num_feature_channels)])

    def forward(
        self, latents: Tensor, ids: Tensor, mask: Tensor, timestep: Tensor, *, with_features: bool = False
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Velocity (b, c, h, w); `with_features` also returns what the REPA head makes of stage 1, (b, n, C)."""
        embeddings = self.text(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        if not with_features:
            velocity: Tensor = self.transformer(latents, embeddings, timestep)
            return velocity
        velocity, tokens = self.transformer(latents, embeddings, timestep, with_tokens=True)
        return velocity, self.projectors[0](tokens)


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


def open_latents(config: DenoiserTrainConfig) -> LatentDataset:
    """Latents and captions of the scenes that show only `config.objects`. Raises ValueError where none does."""
    stored = np.load(config.latents, mmap_mode="r")
    wanted = frozenset(config.objects)
    kept, records = [], []
    for index, record in zip(range(len(stored)), load_records(config.dataset), strict=False):
        if not wanted or all(name in wanted for name, _, _ in record.objects):
            kept.append(index)
            records.append(record)
    if not kept:
        raise ValueError(f"{config.dataset} holds no scene of only {sorted(wanted)}")
    tokenizer = build_tokenizer(config.num_text_tokens)
    padded = {"padding": "max_length", "max_length": config.num_text_tokens, "truncation": True, "return_tensors": "pt"}
    tokens, empty = tokenizer([record.caption for record in records], **padded), tokenizer("", **padded)
    return LatentDataset(
        latents=stored[kept],
        ids=tokens["input_ids"],
        mask=tokens["attention_mask"],
        empty_ids=empty["input_ids"],
        empty_mask=empty["attention_mask"],
        num_words=len(tokenizer),
        features=None if config.features is None else open_features(config.features, np.array(kept)),
        examples=example_captions(records, NUM_SAMPLES),
    )


def build_loop(config: DenoiserTrainConfig, data: LatentDataset, place: Place = CPU) -> TrainingLoop:
    """A fresh run on `data`, seeded by the configuration. Raises TensorFileError where `start_from` does not fit."""
    torch.manual_seed(config.seed)
    num_channels = None if data.features is None else data.features.num_channels
    model = TextToVelocity(config, data.latents.shape[1:], data.num_words, num_channels)
    if config.start_from is not None:
        bundle = read_bundle(config.start_from)
        network = load_transformer(bundle.parts.transformer, model.transformer.config, dtype=torch.float32)
        model.transformer.load_state_dict(network.state_dict())
        text = LlamaModel.from_pretrained(  # nosec B615 # local
            bundle.parts.text_encoder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
        model.text.load_state_dict(text.state_dict())
    if config.is_compiled:
        model.transformer.compile(dynamic=False)
    batches = LatentBatches(
        data,
        place,
        batch_size=config.batch_size,
        num_parts=config.num_parts,
        caption_dropout=config.caption_dropout,
        seed=config.seed,
    )

    def objective(index: int) -> tuple[Tensor, Tensor]:
        loss, alignment = denoising_losses(loop.network, batches.draw(index))
        return loss if alignment is None else loss + config.repa_weight * alignment, loss.detach()

    options = LoopOptions(num_parts=config.num_parts)
    loop = TrainingLoop(model.to(place.device), config, objective, place=place, options=options)
    return loop


def denoising_losses(network: nn.Module, batch: Batch) -> tuple[Tensor, Tensor | None]:
    """Flow matching's and, where the batch has features, REPA's loss. `network` is called as a TextToVelocity."""
    noisy = add_noise(batch.clean, batch.noise, batch.sigma)
    timestep = batch.sigma * NUM_TRAIN_TIMESTEPS
    if batch.target is None:
        velocity = network(noisy, batch.ids, batch.mask, timestep)
        return velocity_loss(velocity, batch.clean, batch.noise), None
    velocity, projected = network(noisy, batch.ids, batch.mask, timestep, with_features=True)
    return velocity_loss(velocity, batch.clean, batch.noise), repa_loss(projected, batch.target)


def train_denoiser(
    config: DenoiserTrainConfig,
    *,
    report: Callable[[str], None] = print,
    should_stop: Callable[[], bool] = lambda: False,
) -> Path | None:
    """Train, or go on training; returns the checkpoint, or None where `should_stop` ended it early.

    Stopping saves a checkpoint first. Raises FileNotFoundError where dataset or latents are missing, AutoencoderError
    where the autoencoder is of other latents.
    """
    device = choose_device(config.device)
    with closing(open_place(device, choose_dtype(config.dtype, device), is_sharded=config.is_sharded)) as place:
        if place.num_processes == 1:  # otherwise torchrun's OMP_NUM_THREADS says
            torch.set_num_threads(config.num_threads)
        data = open_latents(config)
        loop, grids = build_loop(config, data, place), _open_grids(config, data, place)
        num_parameters = sum(parameter.numel() for parameter in loop.parameters)
        place.only_main(report)(f"{len(data.ids)} scenes, {num_parameters / 1e6:.2f} M parameters, {place.device}")

        def show() -> None:
            if grids is not None and grids.is_due(loop.elapsed_s):
                average = loop.average()
                assert isinstance(average, TextToVelocity)
                if place.is_main:
                    average.to(place.device)  # where it was sharded, it has been put together on the CPU
                    text = TextEncoder(
                        build_tokenizer(config.num_text_tokens), average.text, num_tokens=config.num_text_tokens
                    )
                    loop.show(SAMPLES_NAME, grids.draw(text, average.transformer, loop.step))

        is_finished = loop.run({}, report=report, should_stop=should_stop, on_checkpoint=show)
        return config.checkpoint if is_finished else None


def _open_grids(config: DenoiserTrainConfig, data: LatentDataset, place: Place) -> SampleGrids | None:
    if config.autoencoder is None:
        return None
    channels, _, _ = data.latents.shape[1:]
    autoencoder = Autoencoder.load(config.autoencoder, num_channels=channels, device=place.device)
    return SampleGrids(autoencoder, data.examples, config.out_dir, config.sample_every_min)
