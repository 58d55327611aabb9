"""The pictures have what was measured: medians with quartiles at their depths, and the roofline above them."""

import pytest

from gptoss_mlx.bench.harness import Timing, Turn
from gptoss_mlx.bench.measuring import Measured
from gptoss_mlx.bench.plots import _decode, _memory, draw
from gptoss_mlx.config import PUBLISHED
from gptoss_mlx.prediction.speed import roofline
from tests.bench.test_report import BOTH, report

TWENTY = PUBLISHED["20b"]


def written(depth, *seconds, rows=1):
    label = f"tg128@d{depth}" + (f" B{rows}" if rows > 1 else "")
    timing = Timing([Turn({"ours": one, "other": 2 * one}) for one in seconds], {})
    return Measured(label, 128 * rows, timing, {"ours": 12 * 10**9 + depth, "other": 10**9}, rows, depth)


FOUND = [written(0, 4.0, 5.0, 8.0), written(8192, 8.0, 8.0, 8.0)]


def lines(figure):
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def test_speeds_stand_at_their_depths_below_the_roofline_of_the_chip():
    figure = _decode(report(*FOUND), FOUND, TWENTY, "q8")
    (roof,) = lines(figure).values()
    assert roof.get_label() == "roofline: 120 GB/s"
    depths, rates = roof.get_data()
    assert (depths[0], depths[-1]) == (0, 8192)
    assert rates[0] == pytest.approx(roofline(TWENTY, "q8", "M4", 0))
    assert rates[-1] == pytest.approx(roofline(TWENTY, "q8", "M4", 8192))
    bars = {bar.get_label(): bar for bar in figure.axes[0].containers}
    data, _, (spread,) = bars["ours"].lines
    assert [list(column) for column in data.get_data()] == [[0, 8192], [25.6, 16.0]]
    low, high = spread.get_segments()[0][:, 1]
    assert (low, high) == pytest.approx((20.8, 28.8))  # halfway between 16, 25.6 and 32
    assert list(bars["other"].lines[0].get_data()[1]) == [12.8, 8.0]


def test_without_a_bandwidth_there_is_no_roofline_and_a_measured_one_says_so():
    unknown = report(*FOUND, chip="Some Processor", backend="cpu")
    assert lines(_decode(unknown, FOUND, TWENTY, "q8")) == {}
    measured = report(*FOUND, chip="Some Processor", backend="cpu", memory_speed=2.5e10)
    assert list(lines(_decode(measured, FOUND, TWENTY, "q8"))) == ["roofline: 25 GB/s, as measured here"]


def test_memory_stands_at_its_depth():
    (ours, other) = _memory(report(*FOUND), FOUND).axes[0].containers
    assert list(ours.lines[0].get_data()[1]) == pytest.approx([12.0, 12.000008192])
    assert list(other.lines[0].get_data()[1]) == [1.0, 1.0]


def test_two_files_are_written_of_what_one_sequence_took(tmp_path):
    from matplotlib.image import imread

    paths = draw(report(BOTH, *FOUND, written(0, 1.0, rows=4)), TWENTY, "q8", tmp_path / "new")
    assert [path.name for path in paths] == ["decode.png", "memory.png"]
    for path in paths:
        assert imread(path).shape[:2] == (675, 1200)
    assert draw(report(BOTH), TWENTY, "q8", tmp_path / "none") == []
    assert not (tmp_path / "none").exists()
