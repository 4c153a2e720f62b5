"""Charts are well-formed SVG with every point inside the drawing."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from segzero.viz.charts import Line, chart, histogram, running_mean


@pytest.mark.parametrize(
    "points",
    [[(1, 0.5)], [(1, 3.0), (2, 3.0)], [(0, -2.0), (50, 7.5), (100, 3.2)], [(1, 1e-7), (2, 5e-7)], [(1, 0), (2, 4e9)]],
)
def test_every_point_lies_inside(points):
    root = ElementTree.fromstring(chart("Reward & <gain>", [Line("a", points), Line("none", [])]))
    space = "{http://www.w3.org/2000/svg}"
    left, top, width, height = map(float, root.get("viewBox").split())
    circles = root.findall(f"{space}circle")
    assert len(circles) == len(points)
    assert all(left < float(c.get("cx")) < left + width and top < float(c.get("cy")) < top + height for c in circles)
    assert "Reward & <gain>" in [text.text for text in root.findall(f"{space}text")]


def test_higher_is_further_up():
    root = ElementTree.fromstring(chart("t", [Line("a", [(1, 1.0), (2, 2.0)])]))
    low, high = root.findall("{http://www.w3.org/2000/svg}circle")
    assert float(high.get("cy")) < float(low.get("cy")) and float(high.get("cx")) > float(low.get("cx"))


def test_running_mean_looks_back_only():
    assert running_mean([(1, 1.0), (2, 3.0), (3, 5.0), (4, 100.0)], 3)[:3] == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_bars_stand_on_one_line_and_are_as_high_as_their_counts():
    root = ElementTree.fromstring(histogram("IoU", [2, 0, 4], 0, 1, "IoU"))
    _, *bars = root.findall("{http://www.w3.org/2000/svg}rect")
    heights = [float(bar.get("height")) for bar in bars]
    feet = [float(bar.get("y")) + height for bar, height in zip(bars, heights, strict=True)]
    assert heights[1] == 0 and heights[2] == pytest.approx(2 * heights[0], abs=0.11)
    assert feet == pytest.approx([feet[0]] * 3, abs=0.11)
    lines = [re.fullmatch(r"M\S+ (\S+)H\S+", path.get("d", "")) for path in root.iter()]
    assert feet[0] == pytest.approx(max(float(line[1]) for line in lines if line), abs=0.11)  # the line of 0
    assert [float(bar.get("x")) for bar in bars] == sorted(float(bar.get("x")) for bar in bars)
