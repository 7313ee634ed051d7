"""The C interface of a package, played by a small library: it hands its only input back, after some milliseconds."""

import shutil
import subprocess
import threading
import time
import zipfile

import pytest
import torch

from model.unlocked_package import UnlockedPackage

CODE = """
#include <stdint.h>
#include <stdlib.h>
#include <unistd.h>
typedef struct { const char *name; void *handle; } Weight;
int32_t AOTInductorModelContainerCreateWithDevice(void **made, size_t num, const char *device, const char *folder) {
  *made = malloc(num); return 0; }
int32_t AOTInductorModelContainerDelete(void *container) { free(container); return 0; }
int32_t AOTInductorModelContainerGetNumConstants(void *container, size_t *num) { *num = 2; return 0; }
int32_t AOTInductorModelContainerGetConstantName(void *container, size_t index, const char **name) {
  *name = index ? "c1" : "c0"; return 0; }
int32_t AOTInductorModelContainerGetConstantOriginalFQN(void *container, size_t index, const char **name) {
  *name = index ? "layer.bias" : "layer.weight"; return 0; }
int32_t AOTInductorModelContainerUpdateUserManagedConstantBufferPairs(
    void *container, const Weight *weights, size_t num, _Bool inactive, _Bool full) {
  return !(num == 2 && weights[0].name[1] == '1' && weights[1].name[1] == '0' && full && !inactive); }
int32_t AOTInductorModelContainerRun(
    void *container, void **given, size_t num_given, void **found, size_t num_found, void *stream, void *proxy) {
  usleep(200000); found[0] = given[0]; return num_given != 1; }
"""

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler (cc) here")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    folder = tmp_path_factory.mktemp("library")
    (folder / "code.c").write_text(CODE)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "code.so", folder / "code.c"], check=True)
    return folder / "code.so"


def package_of(path, **entries):
    with zipfile.ZipFile(path, "w") as package:
        for name, content in entries.items():
            package.writestr(f"name/data/aotinductor/model/{name.replace('__', '.')}", content)
    return path


@pytest.fixture
def package(library, tmp_path):
    return UnlockedPackage.open(package_of(tmp_path / "package.pt2", code__so=library.read_bytes()), 1)


@needs_compiler
def test_it_hands_tensors_over_and_back(package):
    given = torch.arange(6.0)
    found = package(given)
    assert found.data_ptr() == given.data_ptr()
    torch.testing.assert_close(found, given)


@needs_compiler
def test_other_threads_go_on_while_it_computes(package):
    ticks = []
    thread = threading.Thread(target=package, args=(torch.zeros(1),))
    thread.start()
    while thread.is_alive():
        time.sleep(0.001)
        ticks.append(time.monotonic())
    assert len(ticks) >= 10  # with the lock held: one


@needs_compiler
def test_weights_are_handed_over_by_the_names_that_the_code_has_for_them(package):
    assert package.get_constant_fqns() == ["layer.weight", "layer.bias"]
    weights = {"layer.bias": torch.zeros(2), "layer.weight": torch.zeros(3)}
    package.load_constants(weights, check_full_update=True, user_managed=True)
    with pytest.raises(KeyError):
        package.load_constants({"other": torch.zeros(1)}, check_full_update=True, user_managed=True)


@needs_compiler
def test_a_call_that_fails_is_an_error(package):
    with pytest.raises(RuntimeError, match="fails in Run"):
        package(torch.zeros(1), torch.zeros(1))


@needs_compiler
def test_a_package_whose_operations_must_be_looked_up_is_left_to_torch(library, tmp_path):
    path = package_of(tmp_path / "package.pt2", code__so=library.read_bytes(), code__json="{}")
    assert UnlockedPackage.open(path, 1) is None


@needs_compiler
def test_a_package_of_another_torch_is_left_to_it(tmp_path):
    (tmp_path / "code.c").write_text("int nothing;")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", tmp_path / "code.so", tmp_path / "code.c"], check=True)
    path = package_of(tmp_path / "package.pt2", code__so=(tmp_path / "code.so").read_bytes())
    assert UnlockedPackage.open(path, 1) is None


def test_a_package_without_code_is_left_to_torch(tmp_path):
    assert UnlockedPackage.open(package_of(tmp_path / "package.pt2", code__cpp=""), 1) is None


def test_what_is_no_package_is_refused(tmp_path):
    (tmp_path / "package.pt2").write_bytes(b"no package")
    with pytest.raises(RuntimeError, match="no package"):
        UnlockedPackage.open(tmp_path / "package.pt2", 1)


def test_code_that_is_no_library_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"code\.so"):
        UnlockedPackage.open(package_of(tmp_path / "package.pt2", code__so=b"no library"), 1)
