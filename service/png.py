"""uint8 pixels -> PNG bytes, with what is needed to draw the picture again in its text chunks, and the IPTC mark of
pictures that a model has made.

Prompts are somebody's words and pictures get passed on, so a prompt is written only where the operator asked for it
(metadata "full"). Pure: runs in the worker's thread pool, off the denoising path.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, PngImagePlugin

from model.params import GenerationParams
from service.marks import XMP, XMP_CHUNK
from service.metrics import software_version
from service.settings import MetadataMode


def png_text(
    params: GenerationParams, *, model: str, model_version: str, prompt: str, mode: MetadataMode
) -> dict[str, str]:
    """Text chunks of one picture. `prompt` is the text as the model saw it; `mode` is the operator's choice."""
    if mode == "none":
        return {}
    text = {
        "Software": f"emmdit {software_version()}",
        "Model": model,
        "Model-Version": model_version,
        "Seed": str(params.seed),
        "Num-Inference-Steps": str(params.num_inference_steps),
        "Guidance-Scale": f"{params.guidance_scale:g}",
        "Size": f"{params.width}x{params.height}",
        XMP_CHUNK: XMP,
    }
    if mode == "full":
        text["Prompt"] = prompt
        text["Negative-Prompt"] = params.negative_prompt
    return text


def encode_png(pixels: npt.NDArray[np.uint8], text: Mapping[str, str], *, compress_level: int = 6) -> bytes:
    """PNG of `pixels` (H, W, 3), uint8. Raises ValueError for another shape or dtype: a wrong picture must not pass."""
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise ValueError(f"a picture is uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        if value.isascii():
            chunks.add_text(key, value)
        else:
            chunks.add_itxt(key, value)  # tEXt is Latin-1 by definition; iTXt is UTF-8
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG", pnginfo=chunks, compress_level=compress_level)
    return file.getvalue()
