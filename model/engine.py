"""The engine: prompts become samples, samples take steps together, finished samples become pictures.

Owns device and dtype. Rows of one forward may sit at different steps, with their own step counts, guidance and seeds
(each row brings its own timestep), so samples join and leave between any two steps. Not thread-safe: one thread
calls it. Shapes: latents (c, h, w), embeddings (t, caption channels), pictures (H, W, 3).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.bundle import Bundle
from model.compiled import CompileTarget, load_compiled
from model.forward import Forward
from model.fused import FusedEMMDiT
from model.params import GenerationParams
from model.progress import Progress, read_progress
from model.row_threads import computing_with
from model.sampler import estimate_x0, euler_update, guide, initial_noise
from model.schedule import NUM_TRAIN_TIMESTEPS, serving_sigmas
from model.text import unknown_words
from model.weights import LoadedModel, load_bundle

# Pictures per decoder call: its activations at 512px are some hundred megabytes each.
MAX_DECODE_ROWS = 4


@dataclass(slots=True, eq=False)
class Sample:
    """One picture under way: `step` of its sigmas done. Knows no job."""

    params: GenerationParams
    prompt: str
    unknown_words: tuple[str, ...]
    embedding: Tensor
    negative_embedding: Tensor | None
    latents: Tensor
    sigmas: tuple[float, ...]
    step: int = field(default=0)
    velocity: Tensor | None = field(default=None)  # of the last step, guided: a row of that forward's, not a copy

    @property
    def num_steps(self) -> int:
        """Steps from noise to picture."""
        return len(self.sigmas) - 1

    @property
    def is_finished(self) -> bool:
        """Whether only the decoder is left."""
        return self.step >= self.num_steps


class Engine:
    """One loaded model on one device; engines may share parts (model/loading.py).

    `device` and `dtype` are as chosen by `choose_device` and `choose_dtype`.

    With `exact_rows` every forward has exactly so many rows, spare ones repeating the first, and is never a compiled
    one; prompts are encoded and pictures decoded one at a time. Then a picture is the same to the bit in any company.
    """

    def __init__(self, model: LoadedModel, device: torch.device, dtype: torch.dtype, *, exact_rows: int = 0) -> None:
        self.card = model.card
        self.device = device
        self.dtype = dtype
        self._text, self._autoencoder = model.text, model.autoencoder
        self._config = model.config
        self._network = FusedEMMDiT(model.transformer)  # `model` is not kept: its own projections can be let go
        self._compiled: dict[tuple[int, int], Forward] = {}  # by height and width of the latents
        self._exact_rows = exact_rows
        self._num_threads = torch.get_num_threads()

    @classmethod
    def load(cls, bundle: Bundle, device: str = "auto", dtype: str = "auto", *, exact_rows: int = 0) -> Engine:
        """Load `bundle`. Raises BundleError for the bundle, ValueError for a device that is not there."""
        chosen = choose_device(device)
        number_format = choose_dtype(dtype, chosen)
        return cls(
            load_bundle(bundle, device=chosen, dtype=number_format), chosen, number_format, exact_rows=exact_rows
        )

    def compile_targets(self) -> list[CompileTarget]:
        """What could be compiled for this engine, the default size first; nothing in exact mode."""
        if self._exact_rows:
            return []
        compression, dtype = self._autoencoder.spatial_compression, str(self.dtype).removeprefix("torch.")
        sizes = [[int(side) // compression for side in size.split("x")] for size in self.card.sizes]
        return [CompileTarget(self._config, height, width, dtype, str(self.device)) for width, height in sizes]

    def load_compiled(self, package: Path, target: CompileTarget) -> Forward:
        """A compiled forward of this engine's network, compared with it; for `adopt`. Raises CompileError."""
        return load_compiled(package, target, self._network, self._num_threads)

    def adopt(self, target: CompileTarget, forward: Forward) -> None:
        """Use `forward` for latents of its size from the next step on."""
        self._compiled[(target.height, target.width)] = forward

    @property
    def cache_counts(self) -> tuple[int, int]:
        """(hits, misses) of the text embedding cache since the start."""
        return self._text.num_hits, self._text.num_misses

    @torch.inference_mode()
    def begin(self, wanted: Sequence[GenerationParams]) -> list[Sample]:
        """Start pictures: all their prompts are encoded in one forward; noise comes from each one's own seed."""
        text = self._text
        prompts = [text.clean(params.prompt, params.clean_prompt) for params in wanted]
        negatives = [
            text.clean(params.negative_prompt, params.clean_prompt) if params.is_guided else None for params in wanted
        ]
        distinct = list(dict.fromkeys([*prompts, *(negative for negative in negatives if negative is not None)]))
        embeddings = self._embeddings(distinct)
        return [
            Sample(
                params=params,
                prompt=prompt,
                unknown_words=unknown_words(prompt, self.card.vocabulary),
                embedding=embeddings[prompt],
                negative_embedding=None if negative is None else embeddings[negative],
                latents=initial_noise(params.seed, self._latent_shape(params)).to(self.device),
                sigmas=serving_sigmas(params.num_inference_steps, is_exact=params.exact_schedule),
            )
            for params, prompt, negative in zip(wanted, prompts, negatives, strict=True)
        ]

    def _embeddings(self, prompts: list[str]) -> dict[str, Tensor]:
        """Of each prompt (t, channels); in exact mode every one from a forward of its own."""
        batches = [[prompt] for prompt in prompts] if self._exact_rows else [prompts]
        return {
            prompt: embedding
            for batch in batches
            for prompt, embedding in zip(batch, self._text.encode(batch), strict=True)
        }

    def _latent_shape(self, params: GenerationParams) -> tuple[int, int, int]:
        compression = self._autoencoder.spatial_compression
        return (self._config.in_channels, params.height // compression, params.width // compression)

    @torch.inference_mode()
    def step(self, samples: Sequence[Sample]) -> None:
        """Move every sample on by one step, in one forward. All must have one size and be unfinished.

        Guided samples take two rows of the forward: [all conditional rows, then the guided ones' unconditional rows].
        """
        with computing_with(1):  # what there is around the forward is not worth waking threads for
            guided = [index for index, sample in enumerate(samples) if sample.negative_embedding is not None]
            latents = torch.stack([sample.latents for sample in samples])  # (b, c, h, w)
            sigma = self._row_values([sample.sigmas[sample.step] for sample in samples])
            next_sigma = self._row_values([sample.sigmas[sample.step + 1] for sample in samples])
            embeddings = [sample.embedding for sample in samples]
            embeddings += [s.negative_embedding for s in samples if s.negative_embedding is not None]
            rows = [*range(len(samples)), *guided]
            num_rows = len(rows)
            if self._exact_rows:
                rows += [0] * self._num_spare(num_rows)
                embeddings += [embeddings[0]] * (len(rows) - num_rows)

            forward = self._compiled.get((latents.shape[2], latents.shape[3]), self._forward_as_it_is)
            velocity = forward(
                latents[rows].to(self.dtype), torch.stack(embeddings), sigma[rows] * NUM_TRAIN_TIMESTEPS
            ).float()
            conditional, unconditional = velocity[: len(samples)], velocity[len(samples) : num_rows]
            if guided:
                scale = self._row_values([samples[index].params.guidance_scale for index in guided])
                conditional[guided] = guide(unconditional, conditional[guided], scale)

            moved = euler_update(latents, conditional, sigma, next_sigma)
            for sample, row, row_velocity in zip(samples, moved, conditional, strict=True):
                sample.latents, sample.velocity = row, row_velocity
                sample.step += 1

    def _forward_as_it_is(self, latents: Tensor, text: Tensor, timestep: Tensor) -> Tensor:
        with computing_with(self._num_threads):
            return cast(Tensor, self._network(latents, text, timestep))

    def _num_spare(self, num_rows: int) -> int:
        if num_rows > self._exact_rows:
            raise ValueError(f"in exact mode a forward has {self._exact_rows} rows, not {num_rows}")
        return self._exact_rows - num_rows

    def _row_values(self, values: Sequence[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device)

    def export(self, samples: Sequence[Sample]) -> list[Progress]:
        """How far samples of one size have come, for `resume` of an engine with the same model, here or elsewhere.

        One copy to the processor's memory; making bytes of it needs no engine and can be done elsewhere.
        """
        latents = torch.stack([sample.latents for sample in samples]).cpu()  # (b, c, h, w)
        return [
            Progress(self.card, sample.params, sample.sigmas, row, sample.step)
            for sample, row in zip(samples, latents, strict=True)
        ]

    def resume(self, sample: Sample, state: bytes) -> None:
        """Take a sample that has just begun to where `export` found it; `state` is the bytes of that.

        Raises ValueError, and leaves it as it was, for what is damaged or not of this model and recipe.
        """
        latents, sample.step = read_progress(state, self.card, sample.params, sample.sigmas, sample.latents.shape)
        sample.latents = latents.to(self.device)

    def decode(
        self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of finished samples of one size. `on_progress` is called after each decoder call.

        Raises ArithmeticError rather than return a picture of latents that are not finite.
        """
        return self._pictures([sample.latents for sample in samples], on_progress)

    @torch.inference_mode()
    def decode_estimates(
        self, samples: Sequence[Sample], on_progress: Callable[[], None] = lambda: None
    ) -> list[NDArray[np.uint8]]:
        """Pictures (H, W, 3) of what samples of one size are becoming, as `decode` would draw them.

        Raises ValueError before a sample's first step, when nothing is known of it but noise, else as `decode`.
        """
        return self._pictures(self._estimates(samples), on_progress)

    @torch.inference_mode()
    def preview(self, samples: Sequence[Sample]) -> list[NDArray[np.uint8]]:
        """Tiny pictures of what samples of one size are becoming: four pixels a side for each latent, no decoder.

        The same alone and in any company. Raises as `decode_estimates` does.
        """
        estimates = self._estimates(samples)
        return [self._autoencoder.previews.draw(latents) for latents in _finite(estimates).cpu()]

    def _estimates(self, samples: Sequence[Sample]) -> Tensor:
        """Clean latents (b, c, h, w) that each sample's last velocity points at. x0 = x - sigma v holds after the step
        as before it, since the step went along v; of a finished sample, whose sigma is 0, it is the latents."""
        if not samples:
            return torch.empty(0)
        velocities = [sample.velocity for sample in samples if sample.velocity is not None]
        if len(velocities) < len(samples):
            raise ValueError("there is nothing to show of a picture before its first step")
        latents = torch.stack([sample.latents for sample in samples])
        sigma = self._row_values([sample.sigmas[sample.step] for sample in samples])
        return estimate_x0(latents, torch.stack(velocities), sigma)

    def _pictures(self, latents: Sequence[Tensor] | Tensor, on_progress: Callable[[], None]) -> list[NDArray[np.uint8]]:
        pictures: list[NDArray[np.uint8]] = []
        together = 1 if self._exact_rows else MAX_DECODE_ROWS
        for start in range(0, len(latents), together):
            rows = _finite(torch.stack(list(latents[start : start + together])))
            drawn = self._autoencoder.decode(rows)
            self._autoencoder.previews.learn(rows, drawn)
            pictures.extend(drawn)
            on_progress()
        return pictures

    def warm_up(self) -> float:
        """Draw a one-step picture of the default size, so that no request pays for first calls. Returns seconds."""
        started_s = time.perf_counter()
        width, height = (int(side) for side in self.card.sizes[0].split("x"))
        params = GenerationParams("", width, height, num_inference_steps=1, guidance_scale=0.0, seed=0)
        samples = self.begin([params])
        self.step(samples)
        self.decode(samples)
        return time.perf_counter() - started_s

    def parts(self) -> dict[str, nn.Module]:
        """What lies in memory. Engines may share all but the network."""
        return {"network": self._network, "text_encoder": self._text.body, "autoencoder": self._autoencoder.network}

    def memory_bytes(self) -> dict[str, int]:
        """Memory of the accelerator by kind: total, reserved, allocated, peak. Empty on a CPU."""
        if self.device.type != "cuda":
            return {}
        _, total = torch.cuda.mem_get_info(self.device)
        return {
            "total": total,
            "reserved": torch.cuda.memory_reserved(self.device),
            "allocated": torch.cuda.memory_allocated(self.device),
            "peak": torch.cuda.max_memory_allocated(self.device),
        }


def _finite(latents: Tensor) -> Tensor:
    if not torch.isfinite(latents).all():
        raise ArithmeticError("latents are not finite: the network overflowed, or its weights are damaged")
    return latents


def choose_device(name: str) -> torch.device:
    """ "auto" takes the first GPU (CUDA or ROCm, which torch both calls "cuda"), else the CPU.

    Raises ValueError for a device that this machine or this build of torch does not have.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"device {name!r} is not there: this build of torch ({torch.__version__}) sees "
            f"{torch.cuda.device_count()} GPU(s); use --device cpu or install a torch for your GPU"
        )
    return device


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """ "auto" is bfloat16 on a GPU and float32 on a CPU."""
    if name == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]


def visible_devices(name: str) -> tuple[str, ...]:
    """The devices that `emmdit serve` starts one worker each on: every GPU for "auto", else the one named."""
    if name == "auto" and torch.cuda.is_available():
        return tuple(f"cuda:{index}" for index in range(torch.cuda.device_count()))
    return (str(choose_device(name)),)
