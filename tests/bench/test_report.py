"""A record describes itself as ``benchmarks/schema.json`` says, and tables and notes say what is in it."""

import json
import re
from io import StringIO

import jsonschema
import pytest
from rich.console import Console

from gptoss_mlx.bench.harness import Timing, Turn
from gptoss_mlx.bench.measuring import Effort, LeftOut, Measured
from gptoss_mlx.bench.report import Report, heading, notes, rates_table, starts_table
from tests.docs.pages import ROOT

SCHEMA = json.loads((ROOT / "benchmarks" / "schema.json").read_text())
MACHINE = {
    "system": "macOS 15.5, arm64",
    "chip": "Apple M4",
    "gpu_cores": 10,
    "memory": 16 << 30,
    "working_set": 11_453_251_584,
    "power_mode": "automatic",
    "wired_limit": 0,
    "available": 11_000_000_000,
    "power_source": "AC Power",
    "thermal_pressure": "nominal",
    "backend": "metal",
    "memory_speed": None,
}
MODEL = {"name": "20b", "hash": "0" * 64, "layers": 24, "experts": 32, "hidden": 2880, "vocabulary": 201088}
MODEL |= {"dense": "q8", "experts_in_memory": 20, "context": 48000}


def timing(own, other=None, waiting=None, idle=None):
    turns = [Turn({"ours": own * n} | ({"other": other * n} if other else {}), waiting) for n in (1, 2, 4)]
    return Timing(turns, idle or {})


def report(*results, programs=("ours", "other"), **machine):
    versions = {"gptoss-mac": "0.1.0", "Python": "3.13.1", "mlx": "0.32.4"}
    made = "2026-11-27T09:00:00+00:00"
    found = Report(made, MACHINE | machine, versions, MODEL, dict.fromkeys(programs, "somehow"), Effort())
    for result in results:
        found.add(result)
    return found


def printed(table):
    file = StringIO()
    Console(file=file, width=150).print(table)
    return file.getvalue()


BOTH = Measured("pp512", 512, timing(1.0, 2.0), {"ours": 1_500_000_000, "other": 3_000_000})
ALONE = Measured("tg128 B4", 512, timing(0.5), {"ours": 10**9}, rows=4)
LOAD = Measured("load", 0, timing(3.0, 6.0), {"ours": 1, "other": 1})


def test_a_record_is_as_its_schema_says():
    record = report(LOAD, BOTH, ALONE, LeftOut("pp8192", "no room")).as_json()
    jsonschema.validate(record, SCHEMA)
    assert [(each["label"], each["program"]) for each in record["results"]] == [
        ("load", "ours"),
        ("load", "other"),
        ("pp512", "ours"),
        ("pp512", "other"),
        ("tg128 B4", "ours"),
    ]
    other = record["results"][3]
    assert other["seconds"] == [2.0, 4.0, 8.0]
    assert other["tokens_per_second"] == {"median": 128.0, "low": 96.0, "high": 192.0, "count": 3}
    assert other["times_ours"] == {"median": 2.0, "low": 2.0, "high": 2.0, "count": 3}
    assert record["results"][0]["tokens_per_second"] is None
    assert record["left_out"] == [{"label": "pp8192", "reason": "no room"}]


@pytest.mark.parametrize("field", ["machine", "results", "made", "programs"])
def test_the_schema_refuses_a_record_without(field):
    record = report(BOTH).as_json()
    del record[field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)


def test_the_schema_refuses_fewer_turns_than_are_usual():
    record = report(BOTH).as_json()
    assert record["effort"]["turns"] == Effort().turns
    record["effort"]["turns"] -= 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)


def test_every_record_of_the_project_is_complete_and_as_its_schema_says():
    """There is none yet. What is there must be as ``--record`` wrote it."""
    files = [file for file in (ROOT / "benchmarks").glob("*.json") if file.name != "schema.json"]
    for file in files:
        record = json.loads(file.read_text())
        jsonschema.validate(record, SCHEMA)
        assert record["complete"], file


def test_tables_have_medians_quartiles_counts_and_ratios():
    rates, starts = printed(rates_table(report(LOAD, BOTH, ALONE))), printed(starts_table(report(LOAD, BOTH)))
    rows = [re.split(r"  +", line.strip()) for line in rates.splitlines() if " ours " in line or " other " in line]
    assert rows[0] == ["test", "program", "tokens/s (quartiles)", "n", "memory", "time, ours = 1"]
    assert rows[1:] == [
        ["pp512", "ours", "256 (192–384)", "3", "1.50 GB"],
        ["pp512", "other", "128 (96–192)", "3", "3 MB", "2 (2–2)"],
        ["tg128 B4", "ours", "512 (384–768)", "3", "1.00 GB"],
    ]
    assert "load" not in rates
    assert "load" in starts
    assert "pp512" not in starts


def test_the_heading_says_which_machine_in_which_mode():
    said = heading(report(power_mode="low power"))
    assert said == "20b on Apple M4, 10 GPU cores, power mode low power, macOS 15.5, arm64; medians"
    assert heading(report(chip=None, gpu_cores=None, power_mode=None)).startswith("20b on an unknown chip, macOS")


def test_what_was_left_out_is_said_once_for_each_reason():
    left = (LeftOut("pp8192", "no room"), LeftOut("tg128@d8192", "no room"), LeftOut("tg128 B4", "one at a time"))
    said = notes(report(BOTH, *left))
    assert "Left out: pp8192, tg128@d8192 (no room)" in said
    assert "Left out: tg128 B4 (one at a time)" in said


def test_a_busy_machine_a_hot_chip_a_battery_and_a_restless_program_are_said():
    calm = notes(report(BOTH))
    assert calm == ["ours: somehow", "other: somehow"]
    busy = Measured("pp512", 512, timing(1.0, 2.0, 0.4, {"other": 0.3}), {"ours": 1, "other": 1})
    hot = report(busy, power_source="Battery Power")
    hot.thermal_pressure_after = "heavy"
    said = " ".join(notes(hot))
    assert "some thread waited for a core in up to 40% of the time" in said
    assert "other kept 30% of a core busy" in said
    assert "thermal pressure nominal before and heavy after" in said
    assert "battery" in said
