import dataclasses
import itertools
import math
import re

import pytest

from tvm_iovt.report.roofline_chart import roofline_plot
from tvm_iovt.report.roofline_dots import Dot, look_of
from tvm_iovt.report.roofline_roofs import ridge, roofs_of


def dots_of(planned, target=0, measured=False):
    return [
        Dot(
            unit=unit, unit_s=planned.unit_s[target][unit.index], measured=measured, group=unit.kind
        )
        for unit in planned.graph.units
        if math.isfinite(planned.unit_s[target][unit.index])
    ]


def circles(svg):
    return list(svg.iter("circle"))


@pytest.fixture
def profile(planned):
    return planned.targets[0].profile


@pytest.fixture
def charts(planned, profile, svgs):
    markup = roofline_plot(profile, dots_of(planned), threads=4, name="arm")
    return [svg for svg in svgs(markup) if "plot" in svg.get("class", "")]


def test_a_dot_for_every_unit(planned, charts):
    with_flops = sum(unit.flops > 0 for unit in planned.graph.units)
    assert len(circles(charts[0])) == with_flops
    assert len(circles(charts[1])) == len(planned.graph.units) - with_flops > 0


def decades(chart, axis):
    """Positions of the marked values on an axis: `x` in plain numbers, `y` in GFLOP/s."""
    found = {}
    for text in chart.iter("text"):
        words = "".join(text.itertext())
        if axis == "x" and re.fullmatch(r"[\d.]+", words):
            found[float(words)] = float(text.get("x"))
        if axis == "y" and re.fullmatch(r"\d+ [kMG]?FLOP/s", words):
            number, unit = words.split()
            scale = {"F": 1, "k": 1e3, "M": 1e6, "G": 1e9}[unit[0]]
            found[float(number) * scale] = float(text.get("y")) - 4
    return found


def value_at(marks, position):
    """What a position on a logarithmic axis stands for, from two of its marks."""
    (a, at_a), (b, at_b) = sorted(marks.items())[:2]
    share = (position - at_a) / (at_b - at_a)
    return a * (b / a) ** share


def test_ridge_lies_at_peak_over_bandwidth(charts, profile):
    roof = profile.roofs[2]
    expected = roof.peaks[0].flops_per_s / roof.bandwidth_bytes_per_s
    assert ridge(roof, "float32") == expected
    (drawn,) = [part for part in charts[0].iter("line") if part.get("class") == "ridge"]
    assert value_at(decades(charts[0], "x"), float(drawn.get("x1"))) == pytest.approx(
        expected, rel=0.01
    )
    assert value_at(decades(charts[0], "y"), float(drawn.get("y1"))) == pytest.approx(
        roof.peaks[0].flops_per_s, rel=0.01
    )
    assert f"ridge {expected:.3g} FLOP/B" in "".join(charts[0].itertext())


def test_dots_lie_where_their_units_are(planned, charts):
    x, y = decades(charts[0], "x"), decades(charts[0], "y")
    found = {circle[0].text.split(" ")[0]: circle for circle in circles(charts[0])}
    for unit in planned.graph.units:
        if unit.flops:
            circle = found[unit.name]
            seconds = planned.unit_s[0][unit.index]
            at = value_at(x, float(circle.get("cx")))
            assert at == pytest.approx(unit.intensity, rel=0.02)
            attained = value_at(y, float(circle.get("cy")))
            assert attained == pytest.approx(unit.flops / seconds, rel=0.02)


def test_a_roof_for_every_number_of_threads(charts, profile):
    drawn = [part for part in charts[0].iter("path") if "roof" in part.get("class").split()]
    strong = [part for part in drawn if part.get("class") == "roof"]
    assert len(strong) == 1
    # The units compute in float32 alone; one more for the cache.
    assert len(drawn) == len(profile.roofs) + 1
    words = "".join(charts[0].itertext())
    for count in ("1 thread", "2 threads", "4 threads"):
        assert count in words


def test_a_roof_of_threads_that_nobody_measured_is_scaled(profile):
    roofs = roofs_of(profile, 8, ())
    assert roofs.main.threads == 8
    assert len(roofs.others) == len(profile.roofs)


def test_dtypes_that_are_used_have_roofs(planned, profile):
    dots = dots_of(planned)
    assert roofs_of(profile, 4, dots).dtypes == ("float32",)
    unit = dataclasses.replace(dots[0].unit, dtype="int8")
    heavy = dataclasses.replace(dots[0], unit=unit, unit_s=1.0)
    assert roofs_of(profile, 4, [heavy, *dots[1:]]).dtypes == ("int8", "float32")
    odd = dataclasses.replace(dots[0], unit=dataclasses.replace(unit, dtype="float64"))
    assert roofs_of(profile, 4, [odd]).dtypes == ("float32",)


def test_measured_dots_are_filled(planned, profile, svgs):
    dots = [
        dataclasses.replace(dot, measured=index % 2 == 0)
        for index, dot in enumerate(dots_of(planned))
    ]
    markup = roofline_plot(profile, dots, threads=4, name="arm")
    classes = [circle.get("class").split()[0] for svg in svgs(markup) for circle in circles(svg)]
    # One of each kind is in the legend.
    assert classes.count("measured") == sum(dot.measured for dot in dots) + 1
    assert classes.count("predicted") == sum(not dot.measured for dot in dots) + 1


def test_area_of_a_dot_is_its_share(planned):
    dots = dots_of(planned)
    look = look_of(dots)
    assert sum(look.share(dot) for dot in dots) == pytest.approx(1)
    slow = dataclasses.replace(dots[0], unit_s=0.04 * look.total_s)
    slower = dataclasses.replace(dots[0], unit_s=0.16 * look.total_s)
    assert look.radius(slower) == pytest.approx(2 * look.radius(slow))
    assert look.radius(dataclasses.replace(dots[0], unit_s=1e-12)) >= 3


def test_few_groups_have_colours_of_their_own(planned):
    dots = [
        dataclasses.replace(dot, group=f"stage {index % 9}")
        for index, dot in enumerate(dots_of(planned))
    ]
    colors = look_of(dots).colors
    assert sorted(colors.values()) == [0, 1, 2, 3, 4]


def test_labels_do_not_cover_each_other(planned, svgs):
    profile = planned.targets[0].profile
    near = dataclasses.replace(
        profile,
        roofs=tuple(
            dataclasses.replace(
                roof,
                peaks=tuple(
                    dataclasses.replace(peak, flops_per_s=50e9 + index * 1e8)
                    for index, peak in enumerate(roof.peaks)
                ),
            )
            for roof in profile.roofs
        ),
    )
    dots = dots_of(planned)
    mixed = [
        dataclasses.replace(dot, unit=dataclasses.replace(dot.unit, dtype="int8"))
        if index % 2
        else dot
        for index, dot in enumerate(dots)
    ]
    chart = svgs(roofline_plot(near, mixed, threads=4, name="x"))
    labels = [
        float(text.get("y"))
        for svg in chart
        for text in svg.iter("text")
        if "GFLOP/s," in "".join(text.itertext())
    ]
    assert len(labels) == 6
    labels.sort()
    assert min(b - a for a, b in itertools.pairwise(labels)) >= 14


def test_a_network_without_units(profile, svgs):
    charts = [
        svg
        for svg in svgs(roofline_plot(profile, [], threads=1, name="arm"))
        if "plot" in svg.get("class", "")
    ]
    assert len(charts) == 1
    assert not circles(charts[0])


def test_nothing_is_drawn_outside(charts):
    for chart in charts:
        _, _, width, height = map(float, chart.get("viewBox").split())
        for circle in circles(chart):
            assert 0 <= float(circle.get("cx")) <= width
            assert 0 <= float(circle.get("cy")) <= height
        for text in chart.iter("text"):
            if text.get("transform") is None:
                assert 0 <= float(text.get("x")) <= width
                assert 8 <= float(text.get("y")) <= height


def test_names_are_escaped(plan_of, profile, svgs):
    planned = plan_of(names=lambda index: f"<script>{index}</script>&\"'")
    markup = roofline_plot(profile, dots_of(planned), threads=4, name='<b>"')
    assert "<script" not in markup
    svgs(markup)  # well-formed
