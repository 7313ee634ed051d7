import os
import threading
import time
from dataclasses import replace

import psutil
import pytest
import torch

from model import compiled
from model.compiled import CompileError, CompileTarget, compile_apart, load_compiled
from model.fused import FusedEMMDiT
from model.row_threads import RowThreads
from model.transformer import EMMDiT
from tests.support.tiny_bundle import TINY_CONFIG

CONFIG = replace(TINY_CONFIG, in_channels=16)  # with eight or fewer Inductor would write the last bias into the code
TARGET = CompileTarget(CONFIG, 8, 8, "float32", "cpu")
COMPILE_TIMEOUT_S = 600


def network(seed=0):
    torch.manual_seed(seed)
    return FusedEMMDiT(EMMDiT(CONFIG).eval().requires_grad_(False))


def inputs(num_rows):
    generator = torch.Generator().manual_seed(num_rows)
    latents = torch.randn(num_rows, CONFIG.in_channels, 8, 8, generator=generator)
    text = torch.randn(num_rows, CONFIG.num_text_tokens, CONFIG.caption_channels, generator=generator)
    return latents, text, torch.linspace(1000, 1, num_rows)


class Package:
    """What torch hands back for a package, over another network than the one it is compared with."""

    def __init__(self, network):
        self._network = network
        self.weights = {}

    def get_constant_fqns(self):
        return list(self._network.state_dict())

    def load_constants(self, weights, *, check_full_update, user_managed):
        assert check_full_update
        assert user_managed
        self.weights = weights

    def __call__(self, *rows):
        return self._network(*rows)


def test_a_package_is_named_after_everything_that_its_code_depends_on(monkeypatch):
    names = [TARGET.file_name]
    for changes in ({"width": 12}, {"dtype": "bfloat16"}, {"config": replace(CONFIG, mlp_ratio=4)}):
        names.append(replace(TARGET, **changes).file_name)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    names.append(TARGET.file_name)
    monkeypatch.setattr(compiled, "_hardware", lambda device: "another processor")
    names.append(TARGET.file_name)
    assert len(set(names)) == len(names)


def test_a_target_survives_json():
    assert CompileTarget.from_json(TARGET.to_json()) == TARGET


def test_a_package_that_is_there_is_not_compiled_again(tmp_path):
    (tmp_path / TARGET.file_name).touch()
    assert compile_apart(TARGET, tmp_path, threading.Event()) == tmp_path / TARGET.file_name


def test_without_a_cpp_compiler_it_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(CompileError, match="no C\\+\\+ compiler"):
        compile_apart(TARGET, tmp_path, threading.Event())


def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(compiled, "find_compiler", lambda device: "g++")
    with pytest.raises(CompileError, match="file"):
        compile_apart(TARGET, tmp_path / "file" / "folder", threading.Event())


def test_a_damaged_package_is_refused(tmp_path):
    path = tmp_path / TARGET.file_name
    path.write_bytes(b"no package")
    with pytest.raises(CompileError, match="can't be loaded"):
        load_compiled(path, TARGET, network(), 1)


def test_a_package_is_given_the_networks_own_weights(tmp_path, monkeypatch):
    ours = network()
    package = Package(ours)
    monkeypatch.setattr(compiled, "_open_package", lambda path, device, num_threads: package)
    assert load_compiled(tmp_path, TARGET, ours, 1) is package
    assert all(package.weights[name].data_ptr() == value.data_ptr() for name, value in ours.state_dict().items())


def test_a_package_that_holds_values_of_its_own_is_refused(tmp_path, monkeypatch):
    package = Package(network())
    names = package.get_constant_fqns()
    package.get_constant_fqns = lambda: [name for name in names if name != "proj_out.bias"]
    monkeypatch.setattr(compiled, "_open_package", lambda path, device, num_threads: package)
    with pytest.raises(CompileError, match=r"values of its own instead of proj_out\.bias"):
        load_compiled(tmp_path, TARGET, network(), 1)


def test_a_package_with_other_numbers_than_the_networks_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "_open_package", lambda path, device, num_threads: Package(network(seed=1)))
    with pytest.raises(CompileError, match="differs from the network by"):
        load_compiled(tmp_path, TARGET, network(), 1)


def test_giving_up_ends_the_compiler_and_leaves_no_package(tmp_path):
    is_cancelled = threading.Event()
    errors = []

    def compile_it():
        try:
            compile_apart(TARGET, tmp_path, is_cancelled)
        except CompileError as error:
            errors.append(str(error))

    def compilers():
        return [child for child in psutil.Process(os.getpid()).children() if "model.compiler" in child.cmdline()]

    thread = threading.Thread(target=compile_it)
    thread.start()
    deadline_s = time.monotonic() + 60
    while not compilers() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    is_cancelled.set()
    thread.join(60)
    assert errors == ["given up, as this process ends"]
    assert not compilers()
    assert not list(tmp_path.glob("*.pt2"))


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_a_compiled_network_gives_the_networks_numbers_for_any_number_of_rows(tmp_path):
    path = compile_apart(TARGET, tmp_path, threading.Event())
    assert [entry.name for entry in tmp_path.iterdir() if entry.suffix != ".lock"] == [path.name]
    for seed in (0, 1):  # one package serves any weights of its architecture
        ours = network(seed)
        forward = load_compiled(path, TARGET, ours, 2)
        assert isinstance(forward, RowThreads)  # this torch's packages can be called without Python's lock
        for num_rows in (1, 2, 5, 16):
            given = inputs(num_rows)
            with torch.inference_mode():
                torch.testing.assert_close(forward(*given), ours(*given), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.timeout(COMPILE_TIMEOUT_S)
def test_a_compiler_that_fails_is_quoted(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "/bin/false")
    with pytest.raises(CompileError, match=r"compiling failed \(1\): .*false"):
        compile_apart(TARGET, tmp_path, threading.Event())
    assert not list(tmp_path.glob("*.pt2"))
    assert not list(tmp_path.glob(".compiling-*"))
