"""The named models: published settings, where their parts come from, and what of them is on this machine.

Standard library only. Files and folders as published by the authors: https://huggingface.co/amd/Nitro-E and the
README of https://github.com/AMD-AGI/Nitro-E (checkpoint and adapter names, 20 steps at 4.5, distilled 4 at 0).
Downloads are pinned to full commits; where the authors' commit isn't known here, the operator has to name one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model.bundle import MANIFEST_NAME, MODEL_NAME, Bundle, read_bundle
from model.config import NITRO_E_512, NITRO_E_1024, ModelCard, ModelConfig
from model.errors import BundleError, DuplicateModel, MissingFiles, UnknownModel

SHIPPED_FOLDER = Path(__file__).parent / "bundles"
SHIPPED_NAMES = tuple(sorted(manifest.parent.name for manifest in SHIPPED_FOLDER.glob(f"*/{MANIFEST_NAME}")))
PARTS_FOLDER = "parts"  # of the models folder: what several models share


@dataclass(frozen=True, slots=True)
class Source:
    """A repository on the hub, pinned to a commit (None: the operator names one), and the files wanted of it."""

    repo: str
    revision: str | None
    files: tuple[str, ...]
    size_gb: float
    is_gated: bool = False

    def folder(self, models_dir: Path) -> Path | None:
        """Where the repository lies under `models_dir` at this commit; None while no commit is known."""
        return models_dir / PARTS_FOLDER / self.repo.replace("/", "--") / self.revision if self.revision else None

    def at(self, revision: str) -> Source:
        """The same files at another commit."""
        return replace(self, revision=revision)


# https://huggingface.co/meta-llama/Llama-3.2-1B (gated; Llama 3.2 Community License)
TEXT_ENCODER = Source(
    repo="meta-llama/Llama-3.2-1B",
    revision="4e20de362430cd3b72f300e6b0f18e50e7166e08",
    files=(
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "*.safetensors",
        "model.safetensors.index.json",
        "LICENSE*",
        "USE_POLICY*",
    ),
    size_gb=2.5,
    is_gated=True,
)
# https://huggingface.co/mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers/tree/main
AUTOENCODER = Source(
    repo="mit-han-lab/dc-ae-f32c32-sana-1.0-diffusers",
    revision="ca69e17e97609e64ce055115a6515215109b1f50",
    files=("config.json", "diffusion_pytorch_model.safetensors", "LICENSE*"),
    size_gb=1.25,
)
NITRO_E_REPO = "amd/Nitro-E"
# https://huggingface.co/amd/Nitro-E/commit/5d7b38ca5c2309212de85fbadb480d09e1e34cb6 and .../88f83c800d9e...
_COMMIT_512 = "5d7b38ca5c2309212de85fbadb480d09e1e34cb6"
_COMMIT_1024 = "88f83c800d9ee98a07a40c03a05d2d80a674a85c"
# SHA-256 of the transformer files as those two commits record them.
KNOWN_SHA256 = {
    "Nitro-E-512px.safetensors": "362a1b86870987318c1a49535878b4d62c430b7e36afb51798676475f7ef4550",
    "Nitro-E-512px-dist.safetensors": "06398fb646dbe2d9830902fab7086da3c66fe267211a36a7bc26ee4fd12d88d4",
    "Nitro-E-1024px.safetensors": "f8cf35b97112431cf4f889a7d314503e0df8f7dc7ade0bab0cdd0c7eb403ccf8",
}


@dataclass(frozen=True, slots=True)
class Variant:
    """A published model: its card, its architecture and its files in the authors' repository."""

    card: ModelCard
    config: ModelConfig
    transformer: str
    adapter: str | None
    revision: str | None

    @property
    def source(self) -> Source:
        """The authors' repository with what this variant needs of it."""
        files: tuple[str, ...] = (self.transformer,)
        if self.adapter:
            files += (f"{self.adapter}/adapter_config.json", f"{self.adapter}/adapter_model.safetensors")
        return Source(NITRO_E_REPO, self.revision, files, size_gb=1.24 + (0.04 if self.adapter else 0))

    def card_at(self, revision: str) -> ModelCard:
        """The card of this variant as downloaded at that commit."""
        return replace(self.card, version=revision[:12])


def _variant(size: int, kind: str, adapter: str | None = None, revision: str | None = None) -> Variant:
    is_distilled = kind == "dist"
    what = {
        "": "text to image in 20 steps",
        "dist": "distilled to 4 steps without guidance",
        "grpo": "the 20-step model after GRPO (merged adapters)",
    }
    card = ModelCard(
        name=f"nitro-e-{size}{f'-{kind}' if kind else ''}",
        description=f"AMD Nitro-E (E-MMDiT, 304M), {size}x{size}: {what[kind]}",
        sizes=(f"{size}x{size}",),
        default_steps=4 if is_distilled else 20,
        default_guidance=0.0 if is_distilled else 4.5,
        version=revision[:12] if revision else "unknown",
        license="MIT (transformer); Llama 3.2 Community License (text encoder); DC-AE: LICENSE.txt beside it",
        example_prompts=(
            "a hot air balloon in the shape of a heart over the grand canyon",
            "a photo of a red apple on a wooden table",
        ),
    )
    config = NITRO_E_512 if size == 512 else NITRO_E_1024
    transformer = f"Nitro-E-{size}px{'-dist' if is_distilled else ''}.safetensors"
    return Variant(card, config, transformer, adapter, revision)


VARIANTS: Mapping[str, Variant] = {
    variant.card.name: variant
    for variant in (
        _variant(512, "", revision=_COMMIT_512),
        _variant(512, "grpo", adapter="ckpt_grpo_512px", revision=_COMMIT_512),
        _variant(512, "dist", revision=_COMMIT_512),
        _variant(1024, "", revision=_COMMIT_1024),
        # Named in the authors' README of January 2026; their commits aren't known here.
        _variant(1024, "grpo", adapter="ckpt_grpo_1024px"),
        _variant(1024, "dist"),
    )
}


def find_card(model: str, models_dir: Path) -> ModelCard:
    """What clients may ask of `model`: a known name, a name under `models_dir`, or a bundle's folder.

    Needs no weights on this machine for the published names, so that a gateway can run apart from its workers.
    """
    folder = _find_folder(model, models_dir)
    if folder is not None:
        return read_bundle(folder).card
    return VARIANTS[model].card


def resolve_bundle(model: str, models_dir: Path) -> Bundle:
    """The bundle of `model` with every file it needs, checked to carry no code.

    Raises UnknownModel, ManifestError, MissingFiles (with the command that fetches them) or UnsafeFile.
    """
    folder = _find_folder(model, models_dir)
    if folder is None:
        status = _published_status(VARIANTS[model], models_dir)
        raise MissingFiles(model, status.missing, f"{status.remedy}\n{GATE_NOTE}")
    bundle = read_bundle(folder)
    if missing := bundle.missing_files():
        raise MissingFiles(model, missing, _remedy(model, folder))
    bundle.refuse_unsafe_files()
    return bundle


def find_cards(models: Sequence[str], models_dir: Path) -> tuple[ModelCard, ...]:
    """`find_card` of several models, in their order. Raises DuplicateModel where two have one name."""
    cards = tuple(find_card(model, models_dir) for model in models)
    _refuse_duplicates(models, cards)
    return cards


def resolve_bundles(models: Sequence[str], models_dir: Path) -> tuple[Bundle, ...]:
    """`resolve_bundle` of several models, in their order. Raises DuplicateModel where two have one name."""
    bundles = tuple(resolve_bundle(model, models_dir) for model in models)
    _refuse_duplicates(models, [bundle.card for bundle in bundles])
    return bundles


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One model as `emmdit models` shows it: settings, what is here, what is missing and how to get it."""

    card: ModelCard
    folder: Path | None
    present: tuple[str, ...]
    missing: tuple[str, ...]
    remedy: str

    @property
    def is_ready(self) -> bool:
        """Whether it can be loaded now."""
        return self.folder is not None and not self.missing


def list_models(models_dir: Path) -> tuple[ModelStatus, ...]:
    """The shipped demos, the published models, and whatever else lies in `models_dir`, in that order."""
    statuses = [_folder_status(SHIPPED_FOLDER / name, name) for name in SHIPPED_NAMES]
    for name, variant in VARIANTS.items():
        folder = models_dir / name
        has_manifest = (folder / MANIFEST_NAME).is_file()
        statuses.append(_folder_status(folder, name) if has_manifest else _published_status(variant, models_dir))
    for manifest in sorted(models_dir.glob(f"*/{MANIFEST_NAME}")):
        if manifest.parent.name not in VARIANTS:
            statuses.append(_folder_status(manifest.parent, manifest.parent.name))
    return tuple(statuses)


def describe_models(statuses: tuple[ModelStatus, ...]) -> str:
    """`list_models` as text for a terminal."""
    lines = []
    for status in statuses:
        card = status.card
        settings = f"{', '.join(card.sizes)}, {card.default_steps} steps, guidance {card.default_guidance:g}"
        lines.append(f"{card.name:22} {'ready' if status.is_ready else 'not here':9} {settings}")
        lines.append(f"  {card.description}")
        if status.is_ready:
            lines.append(f"  in {status.folder}")
        else:
            lines += [f"  present  {item}" for item in status.present]
            lines += [f"  missing  {item}" for item in status.missing]
            lines.append(f"  get      {status.remedy}")
        lines.append("")
    if any(status.card.name in VARIANTS and not status.is_ready for status in statuses):
        lines.append(GATE_NOTE)
    return "\n".join(lines).rstrip()


def fetch_command(variant: Variant) -> str:
    """The command that fetches a published model; with what to fill in where its commit isn't known here."""
    if variant.revision is not None:
        return f"emmdit models fetch {variant.card.name}"
    holds = " and ".join(item for item in (variant.transformer, variant.adapter) if item)
    return (
        f"emmdit models fetch {variant.card.name} --revision COMMIT\n"
        f"         COMMIT: the full 40-digit commit of https://huggingface.co/{NITRO_E_REPO}/commits/main with {holds}"
    )


GATE_NOTE = (
    f"The text encoder {TEXT_ENCODER.repo} is gated: accept its licence at https://huggingface.co/{TEXT_ENCODER.repo}\n"
    "and set HF_TOKEN to a token of yours, or add --text-encoder DIR to use a copy that you have."
)


def _refuse_duplicates(models: Sequence[str], cards: Sequence[ModelCard]) -> None:
    """The name of a card is the model's name in requests and in its queue's keys: there can be one of each."""
    named: dict[str, str] = {}
    for model, card in zip(models, cards, strict=True):
        if card.name in named:
            raise DuplicateModel(
                f"{named[card.name]} and {model} are both called {card.name!r}; leave one out, "
                f'or change "name" in its {MANIFEST_NAME}'
            )
        named[card.name] = model


def _find_folder(model: str, models_dir: Path) -> Path | None:
    """The folder of a bundle, or None for a published name that has not been fetched."""
    if model in SHIPPED_NAMES:
        return SHIPPED_FOLDER / model
    if MODEL_NAME.fullmatch(model) and (models_dir / model / MANIFEST_NAME).is_file():
        return models_dir / model
    if model in VARIANTS:
        return None
    folder = Path(model).expanduser()
    if (folder / MANIFEST_NAME).is_file():
        return folder
    if folder.is_dir():
        raise UnknownModel(f"{model} is a folder without a {MANIFEST_NAME}: not a bundle")
    known = ", ".join((*SHIPPED_NAMES, *VARIANTS))
    raise UnknownModel(f"unknown model {model!r}; known: {known}, names under {models_dir}, or a bundle's folder")


def _folder_status(folder: Path, name: str) -> ModelStatus:
    """Status of a folder that has a manifest; a broken one is shown, not raised."""
    try:
        bundle = read_bundle(folder)
    except BundleError as error:
        card = ModelCard(name, "unreadable bundle", ("?",), default_steps=1, default_guidance=0.0)
        return ModelStatus(card, folder, (), (str(error),), "repair or remove that folder")
    missing = bundle.missing_files()
    return ModelStatus(bundle.card, folder, (), missing, _remedy(name, folder) if missing else "")


def _remedy(name: str, folder: Path) -> str:
    return fetch_command(VARIANTS[name]) if name in VARIANTS else f"complete the bundle in {folder}"


def _published_status(variant: Variant, models_dir: Path) -> ModelStatus:
    """Status of a published model without a manifest: its parts may be here already, fetched for another model."""
    present: list[str] = []
    missing: list[str] = []
    for source in (variant.source, TEXT_ENCODER, AUTOENCODER):
        folder = source.folder(models_dir)
        wanted = [name for name in source.files if name.endswith(".safetensors")]
        label = f"{source.repo} ({', '.join(wanted)}; {source.size_gb:g} GB{', gated' if source.is_gated else ''})"
        is_here = folder is not None and all(any(folder.glob(name)) for name in wanted)
        (present if is_here else missing).append(label)
    return ModelStatus(variant.card, None, tuple(present), tuple(missing), fetch_command(variant))
