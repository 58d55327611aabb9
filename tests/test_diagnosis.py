"""Doctor says what fits and how fast by this machine's facts, and what is unknown it leaves unknown."""

import json
import re

import pytest

from gptoss_mlx import diagnosis, machine
from gptoss_mlx.bundled import install_tiny
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.diagnosis import diagnose, wired_command
from gptoss_mlx.machine import DiskSpeed, Machine
from gptoss_mlx.prediction.speed import predict
from tests.support.cli import run_cli

GB = 10**9
MAC = Machine("macOS 15.5, arm64", "Apple M4", 10, 16 << 30, 11_453_251_584, "automatic", 0, 11_000_000_000)


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("GPTOSS_MAC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def mac(home, monkeypatch):
    """A Mac with 16 GB, as far as doctor asks."""
    monkeypatch.setattr(diagnosis, "this_machine", lambda: MAC)
    monkeypatch.setattr(diagnosis, "backend_here", lambda: "metal")
    monkeypatch.setattr(diagnosis, "spendable_bytes", lambda: 11 * GB)
    monkeypatch.setattr("gptoss_mlx.memory.here.backend_here", lambda: "metal")
    monkeypatch.setattr("gptoss_mlx.machine.spendable_bytes", lambda: 11 * GB)
    monkeypatch.setattr("gptoss_mlx.machine.memory_bytes", lambda: 16 << 30)
    monkeypatch.setattr(diagnosis, "read_speed", lambda files: DiskSpeed(1.5 * GB, 256 << 20, True))


def fits(found, model):
    return {fit.asked: fit for fit in found.fits if fit.model == model}


def test_both_published_models_are_planned_for_whatever_is_installed(home):
    found = diagnose()
    assert {fit.model for fit in found.fits} == {"20b", "120b"}
    assert not any(fit.installed for fit in found.fits)
    assert found.disk is None
    install_tiny()
    found = diagnose(context=2000)
    assert [(fit.model, fit.installed) for fit in found.fits] == [("tiny", True), ("20b", False), ("120b", False)]
    assert all(fit.asked == 2000 for fit in found.fits)


def test_on_a_mac_with_16_gb_20b_fits_with_paging_and_120b_does_too(mac):
    found = diagnose()
    twenty = fits(found, "20b")
    assert twenty[None].verdict == "fits with paging"
    assert twenty[None].plan.context == 48_000
    assert twenty[8192].plan.slots > twenty[131072].plan.slots
    assert twenty[None].rate < predict(PUBLISHED["20b"], "q8", "M4").rate
    assert fits(found, "120b")[None].verdict == "fits with paging"
    assert fits(found, "120b")[None].rate < twenty[None].rate


def test_what_does_not_fit_says_what_would(mac):
    found = diagnose(memory=2 * GB)
    assert {fit.verdict for fit in found.fits} == {"does not fit"}
    assert all(re.search(r"allow more: --memory \d+\.\d\dGB$", fit.problem) for fit in found.fits)


def test_without_a_measured_disk_paging_has_no_speed(mac, monkeypatch):
    monkeypatch.setattr(diagnosis, "read_speed", lambda files: None)
    found = diagnose()
    assert fits(found, "20b")[None].rate is None
    assert fits(diagnose(memory=14 * GB), "20b")[8192].rate is not None  # all resident


def test_the_wired_limit_has_an_exact_command_that_leaves_macos_4_gib():
    assert wired_command(MAC) == "sudo sysctl iogpu.wired_limit_mb=12288"


def test_on_a_mac_the_risk_of_the_wired_limit_is_said(mac):
    code, out, err = run_cli("doctor")
    assert (code, err) == (0, "")
    assert "next start: sudo sysctl iogpu.wired_limit_mb=12288. " in out
    assert "kernel panics" in out
    assert "mlx issue 3186" in out
    assert "Metal takes is a prediction" in out
    assert "Speeds are predicted" in out
    assert "power mode: automatic" in out


def test_headings_of_what_was_not_measured_say_so(mac, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    code, out, _ = run_cli("doctor")
    assert code == 0
    assert "predicted tokens/s" in out
    assert "predicted GB" in out


def test_json_has_all_of_it_and_null_where_nothing_is_known(home):
    code, out, err = run_cli("doctor", "--json", "--memory", "7GB", "--context", "3000")
    assert (code, err) == (0, "")
    said = json.loads(out)
    assert said["budget"] == 7 * GB
    assert {(fit["model"], fit["asked_context"]) for fit in said["fits"]} == {("20b", 3000), ("120b", 3000)}
    assert said["machine"]["memory"] == machine.memory_bytes()
    assert said["machine"].keys() >= vars(MAC).keys()
    twenty = next(fit for fit in said["fits"] if fit["model"] == "20b")
    assert sum(part["nbytes"] for part in twenty["plan"]["parts"] if part["counted"]) <= 7 * GB
    if not machine.mx.metal.is_available():
        assert said["machine"]["working_set"] is None
        assert said["machine"]["wired_limit_command"] is None
        assert twenty["predicted_tokens_per_second"] is None


@pytest.mark.parametrize("option", ["--memory=0", "--memory=-2GB", "--memory=lots", "--context=0", "--context=-1"])
@pytest.mark.parametrize("command", [("doctor",), ("run", "--model", "tiny", "hello"), ("chat", "--model", "tiny")])
def test_nonsense_is_refused_in_one_line(home, command, option):
    code, out, err = run_cli(*command, option)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1


def test_an_installed_model_that_cannot_be_read_is_said(home):
    install_tiny()
    (home / "models" / "tiny" / "config.json").write_text("{")
    found = diagnose()
    assert list(found.unreadable) == ["tiny"]
    assert {fit.model for fit in found.fits} == {"20b", "120b"}


def test_doctor_changes_nothing(home):
    install_tiny()
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}
    assert run_cli("doctor")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_a_run_says_that_its_context_is_smaller_than_asked(home):
    install_tiny()
    code, _, err = run_cli("run", "--model", "tiny", "--context", "200000", "--temperature", "0", "What is 2 + 2?")
    assert code == 0
    assert err == "the context holds 131,072 tokens instead of the 200,000 asked for, because the model has no more\n"


def test_a_budget_too_small_for_a_model_is_one_line(home):
    install_tiny()
    code, out, err = run_cli("run", "--model", "tiny", "--memory", "1MB", "hello")
    assert (code, out) == (7, "")
    assert len(err.splitlines()) == 1
    assert "allow more: --memory" in err
