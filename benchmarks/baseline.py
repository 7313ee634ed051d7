"""The yardstick: the published pipeline's plain loop, written as one would with diffusers and transformers.

Same weights, same modules (AutoencoderDC, LlamaForCausalLM with its head, the tokenizer, FlowMatchEulerDiscrete-
Scheduler, the eager network), nothing clever and nothing slowed down: a batch starts and ends together, prompt and
empty prompt are encoded for every picture every time, guidance doubles the batch, N steps are N forwards, all
pictures are decoded at once. Noise is the engine's, so that both can be seen to draw the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler
from diffusers.image_processor import VaeImageProcessor
from PIL import Image
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from model.bundle import Bundle
from model.sampler import initial_noise
from model.text import clean_prompt
from model.weights import load_transformer


class Baseline:
    """One model behind the plain loop. Its three networks are `transformer`, `text_encoder` and `vae`."""

    def __init__(self, bundle: Bundle, device: torch.device, dtype: torch.dtype) -> None:
        parts = bundle.parts
        self.device, self.dtype = device, dtype
        self.config = bundle.config
        self.size = bundle.card.sizes[0]
        self.tokenizer: Any = AutoTokenizer.from_pretrained(parts.tokenizer, local_files_only=True)
        self.tokenizer.pad_token, self.tokenizer.padding_side = self.tokenizer.eos_token, "right"
        self.text_encoder = LlamaForCausalLM.from_pretrained(
            parts.text_encoder, dtype=dtype, local_files_only=True, use_safetensors=True
        ).to(device)
        self.vae = AutoencoderDC.from_pretrained(
            parts.autoencoder, torch_dtype=dtype, local_files_only=True, use_safetensors=True
        ).to(device)
        self.transformer = load_transformer(
            parts.transformer, bundle.config, adapter=parts.adapter, device=device, dtype=dtype
        )
        for network in (self.text_encoder, self.vae):
            network.eval().requires_grad_(False)
        self.image_processor = VaeImageProcessor(vae_scale_factor=self.vae.spatial_compression_ratio)
        self.scheduler = FlowMatchEulerDiscreteScheduler()

    @torch.inference_mode()
    def __call__(
        self, prompts: Sequence[str], seeds: Sequence[int], num_steps: int, guidance: float
    ) -> list[Image.Image]:
        """One picture of the model's default size for each prompt, drawn together. `guidance` <= 1 means none."""
        is_guided = guidance > 1
        embeddings = self.encode(prompts)
        if is_guided:
            embeddings = torch.cat([self.encode([""] * len(prompts)), embeddings])
        width, height = (int(side) // self.vae.spatial_compression_ratio for side in self.size.split("x"))
        noise = [initial_noise(seed, (self.config.in_channels, height, width)) for seed in seeds]
        latents = torch.stack(noise).to(self.device, self.dtype)

        self.scheduler.set_timesteps(num_steps, device=self.device)
        for timestep in self.scheduler.timesteps:
            rows = torch.cat([latents, latents]) if is_guided else latents
            velocity = self.transformer(rows, embeddings, timestep.expand(len(rows)))
            if is_guided:
                unconditional, conditional = velocity.chunk(2)
                velocity = unconditional + guidance * (conditional - unconditional)
            latents = self.scheduler.step(velocity, timestep, latents, return_dict=False)[0]

        pixels = self.vae.decode(latents / self.vae.config.scaling_factor, return_dict=False)[0]
        pictures: list[Image.Image] = self.image_processor.postprocess(pixels, output_type="pil")
        return pictures

    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Embeddings (b, t, channels): the last hidden state behind the norm, the head's logits thrown away."""
        tokens = self.tokenizer(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.config.num_text_tokens,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        output = self.text_encoder(
            tokens.input_ids, attention_mask=tokens.attention_mask, use_cache=False, output_hidden_states=True
        )
        embeddings: Tensor = output.hidden_states[-1]
        return embeddings
