"""The calls of the driver, against a library with its signatures that computes on the host."""

import ctypes
from pathlib import Path

import numpy as np
import pytest

from metal_kernels import toolchain
from tests.gpu import driver

SOURCE = Path(driver.__file__).parent / "native/stand_in.c"


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    built = tmp_path_factory.mktemp("driver") / "libcuda.so"
    for compiler in toolchain.candidates(("cc", "gcc", "clang")):
        if compiler.drive("-x", "c", "-shared", "-fPIC", "-o", built, SOURCE).returncode == 0:
            return ctypes.CDLL(str(built))
    pytest.skip("no C compiler here")


@pytest.fixture
def gpu(library, monkeypatch):
    monkeypatch.setattr(driver.ctypes, "CDLL", lambda name: library)
    return driver.Gpu()


@pytest.fixture
def copier(gpu, tmp_path):
    (tmp_path / "copy.cubin").write_bytes(b"a cubin\0")
    return gpu.kernel(tmp_path / "copy.cubin")


def copy(copier, to, source, nbytes):
    return driver.Launch(copier, (2, 3, 4), (5, 6, 1), (to, source, driver.value("uint", nbytes)))


def test_the_card_is_named(gpu):
    assert gpu.about == {
        **{"card": "stand-in", "architecture": "sm_90", "memory": 1000, "multiprocessors": 132, "L2": 132},
        "driver": "13.2",
    }


def test_a_card_of_another_architecture_is_refused_with_the_remedy(gpu, monkeypatch, capsys):
    monkeypatch.setattr(driver.sys, "argv", ["driver", "sm_90"])
    driver.main()
    assert capsys.readouterr().out == "stand-in\n"
    monkeypatch.setattr(driver.sys, "argv", ["driver", "sm_80"])
    with pytest.raises(SystemExit, match="stand-in is sm_90: add ARCHITECTURE=sm_90"):
        driver.main()


def test_a_launch_gets_its_blocks_and_arguments(gpu, copier, library):
    assert (copier.registers, copier.local_bytes) == (40, 8)
    given = np.arange(100, dtype=np.float32).reshape(4, 25)
    source, to = gpu.put(given), gpu.room(given.nbytes)
    gpu.launch(copy(copier, to, source, given.nbytes))
    assert np.array_equal(gpu.get(to, (4, 25), np.dtype("f4")), given)
    gpu.put(-given, to)
    assert np.array_equal(gpu.get(to, (100,), np.dtype("f4")), -given.reshape(-1))
    gpu.free()
    assert library.stand_in_held() == 0


def test_a_graph_replays_its_launches_in_order_and_divides_the_time(gpu, copier, library):
    first, second, third = (gpu.put(np.full(8, number, np.int32)) for number in (1, 2, 3))
    before = library.stand_in_launches()
    each = [copy(copier, second, first, 32), copy(copier, third, second, 32)]
    microseconds, spread = gpu.timed(each, least=5)
    assert np.array_equal(gpu.get(third, (8,), np.dtype("i4")), np.ones(8, np.int32))
    replays = driver.WARM + driver.REPEATS
    assert library.stand_in_launches() - before == replays * 6  # three times two
    assert microseconds == pytest.approx(1000 / 3)
    assert spread == 0
    gpu.free()


def test_a_refused_call_is_named(gpu, copier):
    launch = driver.Launch(copier, (1, 1, 1), (5, 6, 1), (0, 0, driver.value("uint", 0)))
    with pytest.raises(driver.DriverError, match="cuLaunchKernel: refused"):
        gpu.launch(launch)
