"""The report beside other programs says what a record says."""

from gptoss_mlx.bench.measuring import LeftOut
from tests.bench.test_report import BOTH, LOAD, report
from tests.reports.peers import page


def test_each_result_is_a_row_with_its_median_its_quartiles_and_its_ratio():
    record = report(LOAD, BOTH, LeftOut("pp8192", "no room")).as_json()
    said = page({"llama.cpp": record}).splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in said if line.startswith("| ")]
    assert rows[1:] == [
        ["load", "ours", "6", "4.5 to 9", "3", "0.00 GB", "", ""],
        ["load", "other", "12", "9 to 18", "3", "0.00 GB", "2.00", "2.00 to 2.00"],
        ["pp512", "ours", "256", "192 to 384", "3", "1.50 GB", "", ""],
        ["pp512", "other", "128", "96 to 192", "3", "0.00 GB", "2.00", "2.00 to 2.00"],
    ]
    assert "## llama.cpp" in said
    assert "Apple M4, macOS 15.5, arm64, 2026-11-27." in said
    assert "- Left out: pp8192 (no room)" in said
    assert "- ours: somehow" in said
