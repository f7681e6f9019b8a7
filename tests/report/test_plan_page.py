import dataclasses
import re

import pytest

from tvm_iovt.report.html import html_report
from tvm_iovt.report.plan_page import plan_page

NASTY = "<script>alert('x')</script>\x1b[2J"


def words(page):
    body = page.split("<body>")[1].split("<script>")[0]
    return " ".join(re.sub(r"<[^>]+>", "", body).split())


def test_everything_is_there(planned):
    page = plan_page(planned)
    text = words(page)
    for expected in (
        "mobilenet_v2",
        "Three stages give 1.8 times",
        "throughput: most frames a second",
        "The period is that of the work of stage 0.",
        "arm → x86",
        "one unit later arm would set the period",
        "the whole network on x86",
        "42% fewer frames a second",
        "536.9 MB",
        "Predicted timeline",
        "Roofline of arm",
        "Roofline of cuda:sm_87",
        "Predicted and measured on arm",
        "measured (Cortex-A72, 1.5 GHz, 2026-11-20)",
        "datasheet",
        "1 unit cannot run here or have no time.",
        "±8.0%",
    ):
        assert expected in text, expected
    assert "Predicted and measured on x86" not in text


def test_nothing_is_fetched(planned):
    page = plan_page(planned)
    assert "default-src &#x27;none&#x27;" in page
    assert not re.search(r"https?://|url\(|@import|<(link|img|iframe|object)\b", page)
    assert page.count("<script") == 1


def test_units_can_be_sorted_by_their_times(planned):
    page = plan_page(planned)
    table = page.split('id="sortable"')[1].split("</table>")[0]
    rows = table.split("<tr>")[2:]
    assert len(rows) == len(planned.graph.units)
    assert all(row.count("data-value") == 7 + len(planned.targets) for row in rows)
    assert sum(row.count("chosen") for row in rows) == len(rows)
    assert "cannot" in rows[0]


def test_names_are_escaped(plan_of):
    planned = plan_of(names=lambda index: f"{NASTY}{index}", measured=True)
    planned = dataclasses.replace(
        planned,
        model_name=NASTY,
        targets=tuple(
            dataclasses.replace(target, profile=dataclasses.replace(target.profile, device=NASTY))
            for target in planned.targets
        ),
        plan=dataclasses.replace(
            planned.plan,
            reason=NASTY,
            reasons=(NASTY, NASTY),
            alternatives=tuple(
                dataclasses.replace(other, name=NASTY, reason=NASTY)
                for other in planned.plan.alternatives
            ),
        ),
    )
    page = plan_page(planned)
    assert page.count("<script") == 1
    assert "\x1b" not in page


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_any_number_of_stages(plan_of, stages):
    planned = plan_of(stages=stages)
    text = words(plan_page(planned))
    assert ("Why the cuts lie there" in text) == (stages > 1)


def test_a_plan_without_prediction_and_a_network_without_units(plan_of):
    planned = plan_of(stages=1)
    plan = dataclasses.replace(planned.plan, prediction=None, alternatives=(), reasons=())
    text = words(plan_page(dataclasses.replace(planned, plan=plan)))
    assert "Predicted timeline" not in text
    graph = dataclasses.replace(planned.graph, units=(), edges=())
    empty = dataclasses.replace(planned, plan=plan, graph=graph, unit_s=((), (), ()))
    assert "The network has none." in words(plan_page(empty))


@pytest.fixture
def partitioned(manifest, planned):
    first = dataclasses.replace(
        manifest.deployments[0], name="arm+x86", plan=planned.plan, targets=planned.targets
    )
    return dataclasses.replace(manifest, deployments=(first, *manifest.deployments[1:]))


def test_the_report_of_a_bundle_shows_its_plans(partitioned, planned):
    text = words(html_report(partitioned, {"arm+x86": planned}))
    assert "Plan of arm+x86" in text
    assert text.count("Plan of ") == 1
    assert "Roofline of arm" in text
    assert "Predicted and measured on arm" in text


def test_without_the_plan_file_there_are_no_units(partitioned):
    text = words(html_report(partitioned))
    assert "Plan of arm+x86" in text
    assert "Predicted timeline" in text
    assert "19 units" in text
    assert "Roofline" not in text


def test_plans_beside_the_first_are_folded(partitioned):
    first, *others = partitioned.deployments
    second = dataclasses.replace(first, name="arm+x86 after 3")
    both = dataclasses.replace(partitioned, deployments=(first, second, *others))
    page = html_report(both)
    assert page.count("<summary>The whole plan</summary>") == 1
    assert page.index("Plan of arm+x86 after 3") < page.index("The whole plan")


def test_units_that_refute_the_bound_are_counted(planned):
    text = words(plan_page(planned))
    assert "None took less time than the roofline's lower bound." in text.replace("&#x27;", "'")
    impossible = (1e-9, *planned.measured[0][1:])
    faster = dataclasses.replace(planned, measured=(impossible, (), ()))
    assert "1 unit took less time than" in words(plan_page(faster))
