"""Predictions are current, say that they are such, and none that was made before has changed."""

import hashlib
import json

import pytest

from gptoss_mlx.prediction.macs import error_lines, macs_rows, predictions
from gptoss_mlx.prediction.published_speeds import BANDWIDTH, ROWS
from tests.support.predictions import FOLDER, PAGE, as_json, main, page

MADE = {
    1: "12ce1e10a03edee1547f5e05f11df8c171381750f17703aac8900d6612e76d50",
    2: "af9d39749b00eac9fabf6ab5d25cb966014f81d55fb789b3ef4fb21fbbdba8d8",
}
"""The SHA-256 of every file of predictions. A number may be added, and no other line may change."""


@pytest.fixture(scope="module")
def found():
    return predictions()


def test_no_prediction_that_was_made_has_changed_or_gone():
    files = {int(file.stem): hashlib.sha256(file.read_bytes()).hexdigest() for file in FOLDER.glob("*.json")}
    assert files == MADE


def test_the_newest_predictions_are_those_of_the_speed_model(found):
    assert found["version"] == max(MADE)
    assert (FOLDER / f"{found['version']}.json").read_text() == as_json(found)


def test_the_page_is_current(found):
    assert PAGE.read_text() == page(found)


def test_every_heading_says_prediction():
    headings = [line for line in PAGE.read_text().splitlines() if line.startswith("#")]
    assert len(headings) == 4
    assert all("prediction" in line.lower() for line in headings)


def test_predictions_that_change_need_a_new_number(found, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.support.predictions.FOLDER", tmp_path)
    monkeypatch.setattr("tests.support.predictions.PAGE", tmp_path / "page.md")
    (tmp_path / "1.json").write_text("what was said before")
    for version in (1, 2):
        changed = {**found, "version": version}
        monkeypatch.setattr("tests.support.predictions.predictions", lambda changed=changed: changed)
        main()
    assert (tmp_path / "1.json").read_text() == "what was said before"
    assert json.loads((tmp_path / "2.json").read_text())["version"] == 2


def test_each_chip_stands_beside_all_that_was_published_of_it_and_below_its_roofline(found):
    assert [each["chip"] for each in found["models"]["20b"]] == list(BANDWIDTH)
    listed = [row["rate"] for each in found["models"].values() for chip in each for row in chip["published"]]
    assert sorted(listed) == sorted(row.rate for row in ROWS)
    for each in (chip for model in found["models"].values() for chip in model):
        for at in each["depth"].values():
            assert 0 < at["predicted"] < at["roofline"]
        assert each["depth"]["8192"]["predicted"] < each["depth"]["0"]["predicted"]


def test_the_error_is_the_median_of_chips_left_out_and_the_missed_goal_is_said(found):
    error = found["error"]
    off = sorted(abs(row["predicted"] / row["rate"] - 1) for row in error["left_out"])
    middle = (off[len(off) // 2] + off[(len(off) - 1) // 2]) / 2
    assert error["median"] == pytest.approx(middle, abs=2e-3)
    assert len(found["parameters"]) == 5
    said = " ".join(error_lines(found))
    assert ("is missed" in said) == (error["median"] >= error["goal"])
    assert f"{error['median']:.1%}" in said


def test_a_doubtful_speed_has_a_question_mark(found):
    _, rows = macs_rows(found, "20b")
    published = {row[0]: row[1] for row in rows}
    assert published["M4 Pro"] == "66.5 (llama.cpp, q8?), 76.7 (mlx, q4?), 51 (mlx-serve, q8)"
    assert published["M1"] == "none known"
