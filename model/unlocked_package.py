"""A compiled package for CPUs, called without Python's lock.

Torch's own caller holds that lock for the whole forward: no heartbeat, no picture and no request of the process gets on
meanwhile, for seconds with a large batch. A package's code has a C interface too (torch's
csrc/inductor/aoti_runtime/interface.h), and ctypes lets the lock go around every call of it.
"""

from __future__ import annotations

import ctypes
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Mapping, Sequence
from ctypes import POINTER, byref, c_bool, c_char_p, c_int32, c_size_t, c_void_p
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

_capsule_of: Any = ctypes.pythonapi.PyCapsule_New
_capsule_of.restype, _capsule_of.argtypes = ctypes.py_object, [c_void_p, c_char_p, c_void_p]
_address_in: Any = ctypes.pythonapi.PyCapsule_GetPointer
_address_in.restype, _address_in.argtypes = c_void_p, [ctypes.py_object, c_char_p]


class _Weight(ctypes.Structure):
    """AOTInductorConstantMapEntry."""

    _fields_ = (("name", c_char_p), ("handle", c_void_p))


_ARGUMENTS: Mapping[str, Sequence[Any]] = {
    "CreateWithDevice": (POINTER(c_void_p), c_size_t, c_char_p, c_char_p),
    "Delete": (c_void_p,),
    "GetNumConstants": (c_void_p, POINTER(c_size_t)),
    "GetConstantName": (c_void_p, c_size_t, POINTER(c_char_p)),
    "GetConstantOriginalFQN": (c_void_p, c_size_t, POINTER(c_char_p)),
    "UpdateUserManagedConstantBufferPairs": (c_void_p, POINTER(_Weight), c_size_t, c_bool, c_bool),
    "Run": (c_void_p, POINTER(c_void_p), c_size_t, POINTER(c_void_p), c_size_t, c_void_p, c_void_p),
}


class UnlockedPackage:
    """One package's forward: tensors in, one tensor out. It takes weights as torch's own does, and shares them.

    Made by `open`. Calls raise RuntimeError where the code fails, which has told why on standard error then.
    """

    def __init__(self, library: ctypes.CDLL, num_at_once: int) -> None:
        self._functions = {name: _function(library, name) for name in _ARGUMENTS}
        self._weights: dict[str, Tensor] = {}
        self._handles: list[int] = []
        self._container = c_void_p()
        self._call("CreateWithDevice", byref(self._container), num_at_once, b"cpu", None)
        weakref.finalize(self, _let_go, self._functions["Delete"], self._container, self._handles)

    @classmethod
    def open(cls, path: Path, num_at_once: int) -> Self | None:
        """The package at `path`, for so many threads at a time; None where it has to be called as torch does it.

        That is where it was made by a torch without these functions, or has operations that must be looked up in
        torch. Raises OSError or RuntimeError for one that is damaged.
        """
        try:
            with zipfile.ZipFile(path) as package, tempfile.TemporaryDirectory() as folder:
                names = [name for name in package.namelist() if "/data/aotinductor/" in name]
                codes = [name for name in names if name.endswith(".so")]
                has_foreign = any(name.endswith(".json") and not name.endswith("_metadata.json") for name in names)
                if len(codes) != 1 or has_foreign:
                    return None
                library = ctypes.CDLL(package.extract(codes[0], folder))
        except zipfile.BadZipFile as error:
            raise RuntimeError(f"no package: {error}") from error
        try:
            return cls(library, num_at_once)
        except AttributeError:
            return None

    def get_constant_fqns(self) -> list[str]:
        """Names of the weights that it wants."""
        return list(self._names())

    def load_constants(self, weights: Mapping[str, Tensor], *, check_full_update: bool, user_managed: bool) -> None:
        """Take these weights by name, on a CPU. They are used where they are, and kept."""
        assert user_managed, "weights are never copied here"
        names = self._names()
        self._weights = dict(weights)
        handles = _handles_of(list(weights.values()))
        self._handles.extend(handles)
        entries = (_Weight * len(weights))(
            *(_Weight(names[name], handle) for name, handle in zip(weights, handles, strict=True))
        )
        self._call(
            "UpdateUserManagedConstantBufferPairs", self._container, entries, len(weights), False, check_full_update
        )

    def __call__(self, *inputs: Tensor) -> Tensor:
        """One forward."""
        given = (c_void_p * len(inputs))(*_handles_of(inputs))  # theirs from here on
        found = (c_void_p * 1)()
        self._call("Run", self._container, given, len(inputs), found, 1, None, None)
        return _tensor_of(found[0])

    def _names(self) -> dict[str, bytes]:
        """By the weight's name what the code calls it."""
        count, text = c_size_t(), c_char_p()
        self._call("GetNumConstants", self._container, byref(count))
        names = {}
        for index in range(count.value):
            self._call("GetConstantOriginalFQN", self._container, index, byref(text))
            name = (text.value or b"").decode()
            self._call("GetConstantName", self._container, index, byref(text))
            names[name] = text.value or b""
        return names

    def _call(self, name: str, *arguments: object) -> None:
        if self._functions[name](*arguments) != 0:
            raise RuntimeError(f"the compiled code fails in {name}")


def _function(library: ctypes.CDLL, name: str) -> Callable[..., int]:
    function = getattr(library, f"AOTInductorModelContainer{name}")
    function.restype, function.argtypes = c_int32, list(_ARGUMENTS[name])
    return function  # type: ignore[no-any-return]


def _let_go(delete: Callable[..., int], container: c_void_p, handles: Sequence[int]) -> None:
    delete(container)
    for handle in handles:
        _tensor_of(handle)


def _handles_of(tensors: Sequence[Tensor]) -> list[int]:
    """A new handle of each, which whoever takes it has to let go."""
    return [_address_in(capsule, None) for capsule in torch._C._aoti.unsafe_alloc_void_ptrs_from_tensors([*tensors])]


def _tensor_of(handle: int | None) -> Tensor:
    """What the handle is of. It is no more."""
    tensor: Tensor = torch._C._aoti.alloc_tensor_by_stealing_from_void_ptr(_capsule_of(handle, None, None))
    return tensor
