"""What can be wrong with a bundle of weights. Knows no torch, so that the gateway can import it.

BundleError
├── UnknownModel         neither a known name nor a folder with a manifest
├── DuplicateModel       two bundles of one name are to be served together
├── ManifestError        bundle.json is not what it should be (key)
├── MissingFiles         the bundle names files that are not there (files)
├── UnsafeFile           a file that can carry code, or a configuration that asks for code
├── RevisionError        a download without a full commit, or of another content than pinned
├── DownloadError        the hub refused or could not be reached
├── TensorFileError      something is wrong with one tensor file (path)
│   ├── NotSafetensors   the file is something else
│   ├── TruncatedFile    the file is shorter than its header says
│   ├── MissingTensors   the model needs tensors that the file lacks (tensors)
│   ├── UnknownTensors   the file has tensors that the model does not know (tensors)
│   ├── MisshapedTensors tensors of another shape than the model's (tensors)
│   └── WrongDtype       tensors of a type that is not served (tensors)
├── AdapterError         an adapter's configuration asks for something that can't be merged
├── TextEncoderError     tokenizer or text encoder can't be loaded, or can't read a prompt
└── AutoencoderError     the autoencoder can't be loaded
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_MAX_NAMED = 4  # tensors spelled out in a message; the rest are counted


class BundleError(Exception):
    """Base of all. The message is a sentence for the operator."""


class UnknownModel(BundleError):
    """Neither a known name nor a folder with a manifest."""


class DuplicateModel(BundleError):
    """Two bundles of one name are to be served together."""


class ManifestError(BundleError):
    """`bundle.json` is not what it should be; `key` names the place ("" for the file as a whole)."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        super().__init__(f"{path}: {f'{key}: ' if key else ''}{problem}")
        self.path = path
        self.key = key


class MissingFiles(BundleError):
    """The bundle names files that are not there. `files` lists them."""

    def __init__(self, model: str, files: Sequence[str], remedy: str) -> None:
        listing = "\n  ".join(files)
        super().__init__(f"model {model} lacks {len(files)} file(s):\n  {listing}\n{remedy}")
        self.files = tuple(files)
        self.remedy = remedy


class UnsafeFile(BundleError):
    """A file that can carry code, or a configuration that asks for code to be loaded."""


class RevisionError(BundleError):
    """A download without a full commit hash, or of another content than the pinned one."""


class DownloadError(BundleError):
    """The hub refused or could not be reached."""


class TensorFileError(BundleError):
    """Something is wrong with the tensor file at `path`."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path}: {problem}")
        self.path = path


class NotSafetensors(TensorFileError):
    """The file is something else than safetensors."""


class TruncatedFile(TensorFileError):
    """The file is shorter than its own header says."""


class _NamedTensors(TensorFileError):
    """A problem of certain tensors; `tensors` holds their names, the message the first few and the count."""

    def __init__(self, path: Path, problem: str, tensors: Sequence[str], details: Sequence[str] = ()) -> None:
        shown = ", ".join((details or tensors)[:_MAX_NAMED])
        rest = len(tensors) - _MAX_NAMED
        super().__init__(path, f"{len(tensors)} {problem}: {shown}{f' and {rest} more' if rest > 0 else ''}")
        self.tensors = tuple(tensors)


class MissingTensors(_NamedTensors):
    """The model needs tensors that the file lacks."""


class UnknownTensors(_NamedTensors):
    """The file has tensors that the model does not know."""


class MisshapedTensors(_NamedTensors):
    """Tensors of another shape than the model's."""


class WrongDtype(_NamedTensors):
    """Tensors of a type that is not served."""


class AdapterError(BundleError):
    """An adapter's configuration asks for something that can't be merged."""


class TextEncoderError(BundleError):
    """Tokenizer or text encoder can't be loaded, or can't read a prompt."""


class AutoencoderError(BundleError):
    """The autoencoder can't be loaded."""
