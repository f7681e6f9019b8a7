import base64
import dataclasses
import hashlib
import re
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tvm_iovt.report.html import html_report
from tvm_iovt.types import Decision, FileRecord, Library, Stage

VOID = {"input", "meta", "wbr"}


class _Document(HTMLParser):
    """Checks that every element is closed in order; collects what tests look at."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.tags = []
        self.attributes = []
        self.text = []
        self.scripts = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            self.scripts.append(data)
        elif self.open[-1:] != ["style"]:
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def test_document_is_well_formed_and_complete(manifest):
    report = html_report(manifest)
    document = _Document(report)
    assert report.startswith("<!DOCTYPE html>")
    for expected in (
        "mobilenet_v2",
        "tvm-iovt 0.1.0",
        "TVM 0.27.0.post1",
        "1 of 3",  # verified deployments
        "12.3 ms",
        "11.9 .. 13.8 ms",
        "stage0.x86.so",
        "12 of 1000 elements",
        "outputs differ",
        "not run: this machine has no NVIDIA GPU",
        "1x3x224x224",
        "short side to 256",
        "2 class labels",
        "28.8 MFLOP",
        "1 operator without a known cost",
        "weight shared with conv_31",
    ):
        assert expected in document.words, expected


def test_nothing_is_fetched(manifest):
    document = _Document(html_report(manifest))
    assert not {"link", "img", "iframe", "object", "base"} & set(document.tags)
    assert not [a for a in document.attributes if a[1] in ("src", "href", "xlink:href", "action")]
    assert "url(" not in html_report(manifest)
    assert "@import" not in html_report(manifest)


def test_policy_names_the_only_script(manifest):
    document = _Document(html_report(manifest))
    (policy,) = [v for t, k, v in document.attributes if k == "content" and "script-src" in v]
    digest = hashlib.sha256("".join(document.scripts).encode()).digest()
    assert f"'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert policy.startswith("default-src 'none'")


HOSTILE = (
    "<script>alert('x')</script>",
    '"><svg onload=alert(1)>',
    "</style><b>",
    "a & b < c",
    "\x1b[2Jname",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_every_string_is_escaped(manifest, text):
    hostile = _replace_strings(manifest, text)
    clean = _Document(html_report(_replace_strings(manifest, "plain")))
    document = _Document(html_report(hostile))
    assert document.tags.count("script") == 1
    assert [tag for tag in document.tags if tag != "wbr"] == [t for t in clean.tags if t != "wbr"]
    assert not [name for _, name, _ in document.attributes if name.startswith("on")]
    assert "\x1b" not in html_report(hostile)


def _replace_strings(value, text):
    if isinstance(value, str):
        return text
    if isinstance(value, tuple):
        return tuple(_replace_strings(item, text) for item in value)
    if dataclasses.is_dataclass(value):
        kept = {"dtype"}  # of a TensorSpec it is parsed, of an OpCost it marks unknown costs
        return dataclasses.replace(
            value,
            **{
                f.name: _replace_strings(getattr(value, f.name), text)
                for f in dataclasses.fields(value)
                if f.name not in kept
            },
        )
    return value


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(max_size=20))
def test_any_operator_name_keeps_the_document_well_formed(manifest, name):
    operators = (dataclasses.replace(manifest.operators[0], name=name, op=name),)
    _Document(html_report(dataclasses.replace(manifest, operators=operators)))


def test_empty_parts(manifest):
    bare = dataclasses.replace(
        manifest, deployments=(), operators=(), decisions=(), preprocess=None, labels=()
    )
    document = _Document(html_report(bare))
    assert "No pass had anything to decide" in document.words
    assert "no deployment" in document.words
    assert "Operators" not in document.words


def test_many_subjects_are_folded(manifest):
    decisions = tuple(
        Decision(transform="RestoreClip", subject=f"clip_{i}", applied=True, reason="pattern")
        for i in range(8)
    )
    document = _Document(html_report(dataclasses.replace(manifest, decisions=decisions)))
    assert "and 5 more" in document.words
    assert "clip_7" in document.words
    assert "8 applied" in document.words


def test_stages_of_a_partitioned_deployment(manifest):
    first = manifest.deployments[0]
    (stage,), (library,) = first.plan.stages, first.libraries
    plan = dataclasses.replace(
        first.plan,
        reason="cut after add_7",
        stages=(
            stage,
            Stage(index=1, target="cuda", units=("conv_4", "conv_5"), inputs=(), outputs=()),
        ),
    )
    second = Library(
        stage=1,
        file=FileRecord(file="stage1.cuda.so", sha256="0", size_bytes=10),
        device="cuda",
        parameters_bytes=0,
    )
    split = dataclasses.replace(first, plan=plan, libraries=(library, second))
    words = _Document(html_report(dataclasses.replace(manifest, deployments=(split,)))).words
    assert "2 units from conv_4 on cuda" in words
    assert "cut after add_7" in words
    assert "stage1.cuda.so" in words


def test_operator_rows_carry_sort_keys(manifest):
    report = html_report(manifest)
    assert len(re.findall(r'class="share" data-value="\d+"', report)) == len(manifest.operators)
    document = _Document(report)
    assert document.tags.count("circle") == sum(cost.flops > 0 for cost in manifest.operators)
