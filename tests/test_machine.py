"""Facts of a machine. macOS's are read from output that others have published."""

import sys

import pytest

from gptoss_mlx import machine

DISPLAYS = """\
Graphics/Displays:

    Apple M3:

      Chipset Model: Apple M3
      Type: GPU
      Bus: Built-In
      Total Number of Cores: 10
      Vendor: Apple (0x106b)
      Metal Support: Metal 3
      Displays:
        Color LCD:
          Display Type: Built-in Liquid Retina XDR Display
          Resolution: 3024 x 1964 Retina
"""
"""As in narugit/smctemp issue 26."""

AMD = """\
Graphics/Displays:

    Radeon Pro Vega 64:

      Chipset Model: Radeon Pro Vega 64
      Type: GPU
      VRAM (Total): 16 GB
"""
"""As in zeam-vm/cpu_info issue 17."""

SETTINGS = """\
System-wide power settings:
Currently in use:
 lidwake              1
 standby              1
 ttyskeepawake        1
 hibernatemode        3
 powernap             1
 hibernatefile        /var/vm/sleepimage
 displaysleep         28
 sleep                1 (sleep prevented by sharingd)
 tcpkeepalive         1
 disksleep            0
"""
"""As at real-world-systems.com/docs/pmset.1.html."""


def test_gpu_cores_are_counted():
    assert machine.gpu_cores(DISPLAYS) == 10
    assert machine.gpu_cores(AMD) is None


@pytest.mark.parametrize(
    ("line", "mode"),
    [
        (" lowpowermode         0", "automatic"),
        (" lowpowermode         1", "low power"),
        (" powermode            2", "high power"),
        ("", None),
    ],
)
def test_the_power_mode_is_read(line, mode):
    assert machine.power_mode(f"{SETTINGS}{line}\n") == mode


BATTERY = """\
Now drawing from 'Battery Power'
 -InternalBattery-0 \t89%; discharging; 4:47 remaining present: true
"""
"""As in imwally/battstat issue 2."""


def test_the_power_source_is_read():
    assert machine.power_source(BATTERY) == "Battery Power"
    assert machine.power_source("Now drawing from 'AC Power'\n") == "AC Power"  # a Mac without a battery
    assert machine.power_source("") is None


def test_the_thermal_pressure_is_read():
    assert machine.thermal_pressure("com.apple.system.thermalpressurelevel 0\n") == "nominal"
    assert machine.thermal_pressure("com.apple.system.thermalpressurelevel 2") == "heavy"
    assert machine.thermal_pressure("com.apple.system.thermalpressurelevel 17") is None
    assert machine.thermal_pressure("0") is None


def test_a_mac_is_known_by_what_its_commands_print(monkeypatch):
    said = {
        ("pmset", "-g"): f"{SETTINGS} powermode            2",
        ("pmset", "-g", "batt"): BATTERY.strip(),
        ("system_profiler", "SPDisplaysDataType"): DISPLAYS,
        ("sysctl", "-n", "iogpu.wired_limit_mb"): "0",
        ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M3",
        ("notifyutil", "-g", "com.apple.system.thermalpressurelevel"): "com.apple.system.thermalpressurelevel 1",
    }
    monkeypatch.setattr(machine.sys, "platform", "darwin")
    monkeypatch.setattr(machine.platform, "mac_ver", lambda: ("15.5", ("", "", ""), "arm64"))
    monkeypatch.setattr(machine, "_said", lambda *command: said[command])
    known = machine.this_machine()
    assert known.system.startswith("macOS 15.5")
    assert (known.chip, known.gpu_cores, known.wired_limit) == ("Apple M3", 10, 0)
    assert (known.power_mode, known.power_source, known.thermal_pressure) == ("high power", "Battery Power", "moderate")


def test_the_smallest_limit_of_a_control_group_and_those_above_it_counts(tmp_path):
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "outer" / "memory.max").write_text("6000\n")
    (tmp_path / "outer" / "memory.stat").write_text("anon 1000\nfile 4000\n")
    (inner / "memory.max").write_text("max\n")
    assert machine.group_limit("0::/outer/inner\n", tmp_path) == (6000, 1000)
    (inner / "memory.max").write_text("500\n")
    assert machine.group_limit("0::/outer/inner\n", tmp_path) == (500, 0)
    assert machine.group_limit("0::/elsewhere\n", tmp_path) is None


def test_a_group_of_version_1_without_a_limit_limits_nothing(tmp_path):
    inner = tmp_path / "memory" / "job"
    inner.mkdir(parents=True)
    (tmp_path / "memory" / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    groups = "9:name=systemd:/\n4:memory:/job\n3:cpuset:/\n0::/\n"
    assert machine.group_limit(groups, tmp_path) is None
    (inner / "memory.limit_in_bytes").write_text("6000000000\n")
    (inner / "memory.stat").write_text("rss 3\ntotal_rss 2000\n")
    assert machine.group_limit(groups, tmp_path) == (6000000000, 2000)


def test_what_a_model_may_take_is_less_than_what_there_is():
    assert 0 < machine.spendable_bytes() < machine.available_bytes() + machine.own_bytes()
    assert machine.available_bytes() <= machine.memory_bytes()


@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac knows")
def test_what_cannot_be_known_is_not_guessed():
    known = machine.this_machine()
    assert (known.gpu_cores, known.working_set, known.power_mode, known.wired_limit) == (None,) * 4
    assert known.chip
    assert known.memory
    assert known.system.startswith("Linux")


def test_the_disk_is_measured_by_the_largest_file_and_nothing_is_written(tmp_path):
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(bytes(10))
    large.write_bytes(bytes(3 << 20))
    before = large.stat().st_mtime_ns
    measured = machine.read_speed([small, large])
    assert measured.nbytes == 3 << 20
    assert measured.speed > 1e6
    assert large.stat().st_mtime_ns == before
    assert machine.read_speed([tmp_path / "absent"]) is None
