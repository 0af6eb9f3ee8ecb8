"""Energy, clocks and machines, read from trees and lines as the boards write them."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path
from typing import Any

import pytest

from florence_bench.machine import this_machine
from florence_bench.memory import peak_resident
from florence_bench.power.conditions import look, power_mode
from florence_bench.power.ina3221 import board_watts, rails
from florence_bench.power.meter import metered
from florence_bench.power.nvml import Nvml, own_device_bytes
from florence_bench.power.rapl import zones
from florence_bench.power.tegrastats import parse, running


def plant(root: Path, files: dict[str, object]) -> Path:
    """Writes a tree of one-line files."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    return root


RAPL = {
    "sys/class/powercap/intel-rapl:0/name": "package-0",
    "sys/class/powercap/intel-rapl:0/energy_uj": 1_000_000,
    "sys/class/powercap/intel-rapl:0/max_energy_range_uj": 262_143_328_850,
    "sys/class/powercap/intel-rapl:0:0/name": "core",
    "sys/class/powercap/intel-rapl:0:0/energy_uj": 700_000,
}
ORIN = {
    "sys/class/hwmon/hwmon0/name": "tmp451",
    "sys/class/hwmon/hwmon3/name": "ina3221",
    "sys/class/hwmon/hwmon3/in1_label": "VDD_IN",
    "sys/class/hwmon/hwmon3/in1_input": 5064,
    "sys/class/hwmon/hwmon3/curr1_input": 1000,
    "sys/class/hwmon/hwmon3/in2_label": "VDD_CPU_GPU_CV",
    "sys/class/hwmon/hwmon3/in2_input": 5056,
    "sys/class/hwmon/hwmon3/curr2_input": 200,
    "sys/class/hwmon/hwmon3/in3_label": "NC",
    "sys/class/hwmon/hwmon3/in3_input": 0,
    "sys/class/hwmon/hwmon3/curr3_input": 0,
}


def test_rapl_counts_packages_once_and_survives_an_overflow(tmp_path: Path) -> None:
    (package,) = zones(plant(tmp_path, RAPL))
    assert package.name == "package-0"
    assert package.between(1_000_000, 3_500_000) == pytest.approx(2.5)
    assert package.between(262_143_328_850, 999_999) == pytest.approx(1.0)


def test_a_platform_counter_replaces_its_packages(tmp_path: Path) -> None:
    psys = {f"sys/class/powercap/intel-rapl:1/{name}": value for name, value in (("name", "psys"), ("energy_uj", 5))}
    assert [zone.name for zone in zones(plant(tmp_path, {**RAPL, **psys}))] == ["psys"]


def test_a_boards_power_is_that_of_its_input(tmp_path: Path) -> None:
    found = {rail.name: rail.watts() for rail in rails(plant(tmp_path, ORIN))}
    assert found == {"VDD_IN": pytest.approx(5.064), "VDD_CPU_GPU_CV": pytest.approx(1.0112)}
    assert board_watts(found) == pytest.approx(5.064)
    assert board_watts({"GPU": 2.0, "CPU": 1.5}) == 3.5
    assert board_watts({}) is None


def test_energy_is_told_per_answer(tmp_path: Path) -> None:
    root = plant(tmp_path, {**RAPL, **ORIN})
    with metered(root) as account:
        plant(root, {"sys/class/powercap/intel-rapl:0/energy_uj": 4_000_000})
        account.answers = 2
        time.sleep(0.02)
    energy = account.energy
    assert energy
    assert energy.joules["RAPL package-0"] == pytest.approx(3.0)
    assert energy.joules["rail VDD_IN"] == pytest.approx(5.064 * energy.seconds)
    assert energy.board_joules == pytest.approx(5.064 * energy.seconds)
    assert energy.joules_per_answer == pytest.approx(5.064 * energy.seconds / 2)
    assert energy.samples >= 1


def test_a_machine_that_tells_nothing_has_no_energy(tmp_path: Path) -> None:
    with metered(tmp_path) as account:
        account.answers = 1
    assert account.energy is None or all(name.startswith("GPU") for name in account.energy.joules)


TEGRASTATS = {
    "orin": (
        "RAM 2820/7620MB (lfb 3x4MB) SWAP 0/3810MB CPU [12%@1510,off] EMC_FREQ 3%@2133 GR3D_FREQ 45%@[611] "
        "cpu@50.2C tj@51.5C VDD_IN 5080mW/4930mW VDD_CPU_GPU_CV 1011mW/1000mW",
        (0.45, (611,), 2133, {"VDD_IN": 5.08, "VDD_CPU_GPU_CV": 1.011}),
    ),
    "jetpack 7 orin": (
        "EMC_FREQ 0%@3199 GR3D_FREQ 0%@[1300,1300] VDD_IN 4000mW/4000mW",
        (0.0, (1300, 1300), 3199, {"VDD_IN": 4.0}),
    ),
    "thor": (
        "RAM 220/38955MB GR3D_FREQ @[1000,1000,1000] VDD_GPU 9000mW/8800mW",
        (None, (1000,) * 3, None, {"VDD_GPU": 9.0}),
    ),
    "nano": ("RAM 1/3964MB EMC_FREQ 0% GR3D_FREQ 7%@76 POM_5V_IN 2100/2080", (0.07, (76,), None, {"POM_5V_IN": 2.1})),
}


@pytest.mark.parametrize("board", TEGRASTATS)
def test_tegrastats_of_every_generation_is_understood(board: str) -> None:
    line, (load, clocks, memory, watts) = TEGRASTATS[board]
    found = parse(line)
    assert (found.gpu_load, found.gpu_mhz, found.memory_mhz) == (load, clocks, memory)
    assert found.watts == pytest.approx(watts)


def test_tegrastats_tells_memory_and_temperatures() -> None:
    found = parse(TEGRASTATS["orin"][0])
    assert found.memory_bytes == 2820 * 2**20
    assert found.temperatures == {"cpu": 50.2, "tj": 51.5}
    assert parse("").watts == {}


def test_a_running_tegrastats_is_read_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "tegrastats"
    program.write_text('#!/bin/sh\nwhile :; do echo "VDD_IN 5000mW/5000mW"; sleep 0.01; done\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    with running() as readings:
        while not readings:
            time.sleep(0.005)
    assert set(readings["VDD_IN"]) == {5.0}
    with metered(tmp_path / "empty") as account:
        account.answers = 1
        time.sleep(0.1)
    assert account.energy
    assert account.energy.board_joules == pytest.approx(5.0 * account.energy.seconds)


class FakeNvml:
    """The functions of the driver's library, for one GPU."""

    def __init__(self) -> None:
        self.energy, self.shut = 5_000, False

    def nvmlInit_v2(self) -> int:  # noqa: N802  # the library's name
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802  # the library's name
        self.shut = True
        return 0

    def __getattr__(self, name: str) -> Any:
        values = {
            "nvmlDeviceGetCount_v2": lambda count: self._put(count, 1),
            "nvmlDeviceGetHandleByIndex_v2": lambda index, handle: 0,
            "nvmlDeviceGetTotalEnergyConsumption": lambda handle, spent: self._put(spent, self.energy),
            "nvmlDeviceGetClockInfo": lambda handle, kind, clock: self._put(clock, 1000 + kind) if kind < 2 else 3,
            "nvmlDeviceGetCurrentClocksThrottleReasons": lambda handle, reasons: self._put(reasons, 0x24),
            "nvmlDeviceGetName": self._name,
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetComputeRunningProcesses_v3": self._processes,
        }
        return values[name]

    def _put(self, reference: Any, value: int) -> int:
        reference._obj.value = value
        return 0

    def _name(self, handle: Any, buffer: Any, length: ctypes.c_uint) -> int:
        buffer.value = b"NVIDIA Test"
        return 0

    def _memory(self, handle: Any, memory: Any) -> int:
        memory._obj.total = 8 * 2**30
        return 0

    def _processes(self, handle: Any, count: Any, processes: Any) -> int:
        for process, (pid, used) in zip(processes, ((os.getpid(), 300), (1, 5), (os.getpid(), 40)), strict=False):
            process.pid, process.used = pid, used
        return self._put(count, 3)


def test_nvml_tells_energy_clocks_throttling_and_memory() -> None:
    library = FakeNvml()
    with Nvml.open(library) as nvml:
        (gpu,) = nvml.gpus()
        assert (gpu.name, gpu.memory_bytes) == ("NVIDIA Test", 8 * 2**30)
        assert gpu.energy_joules() == 5.0
        assert gpu.clocks_mhz() == {"graphics": 1000, "sm": 1001}
        assert gpu.throttling() == ("software power cap", "software thermal slowdown")
        assert own_device_bytes(nvml) == 340
    assert library.shut


def test_conditions_are_those_of_the_tree(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": 1_500_000,
            "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": 2_500_000,
            "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil",
            "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": 3,
            "sys/class/hwmon/hwmon1/oc1_event_cnt": 2,
            "sys/class/devfreq/17000000.gpu/cur_freq": 611_000_000,
            "sys/class/thermal/thermal_zone0/type": "tj-thermal",
            "sys/class/thermal/thermal_zone0/temp": 51_500,
            "sys/firmware/acpi/platform_profile": "balanced",
            "proc/loadavg": "1.25 0.50 0.30 1/100 4242",
        },
    )
    found = look(root)
    assert found.clocks_mhz["cpu"] == 2000.0
    assert found.clocks_mhz["17000000.gpu"] == 611.0
    assert found.temperatures == {"tj-thermal": 51.5}
    assert (found.governor, found.throttle_events, found.load) == ("schedutil", 5, 1.25)
    assert power_mode(root, "no-such-command") == "balanced"


def test_a_jetsons_power_mode_has_a_name(tmp_path: Path) -> None:
    program = tmp_path / "nvpmodel"
    program.write_text("#!/bin/sh\nprintf 'NV Power Mode: MAXN_SUPER\\n2\\n'\n")
    program.chmod(0o755)
    assert power_mode(tmp_path, str(program)) == "MAXN_SUPER"


def test_a_machine_is_described_by_its_tree(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        {
            "proc/cpuinfo": "processor : 0\nmodel name : ARMv8 Processor rev 1 (v8l)\nFeatures : fp asimd asimddp sha1",
            "proc/meminfo": "MemTotal:        7802840 kB",
            "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"',
        },
    )
    found = this_machine(root)
    assert found.processor.startswith("ARMv8")
    assert found.instructions == ("asimd", "asimddp")
    assert found.board == "NVIDIA Jetson Orin Nano Developer Kit"
    assert found.memory_bytes == 7802840 * 1024
    assert not found.virtual
    assert found.name.startswith("nvidia-jetson-orin-nano-developer-kit")
    assert "Ubuntu 22.04.5 LTS" in found.system
    assert found.libraries["numpy"]


def test_peak_memory_is_the_kernels_high_water_mark(tmp_path: Path) -> None:
    root = plant(tmp_path, {"proc/self/status": "Name:\tx\nVmPeak:\t  99 kB\nVmHWM:\t  1234 kB"})
    assert peak_resident(root) == 1234 * 1024
    before = peak_resident()
    held = bytearray(64 << 20)
    assert peak_resident() >= before + len(held) // 2 or peak_resident() >= len(held)
    assert peak_resident(tmp_path / "nothing") > 2**20
