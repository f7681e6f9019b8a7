from __future__ import annotations

from ncnn_pad import convert_pads

NCNN = """7767517
2 2
Input   in0    0 1 in0
Pad     Pad_2  1 1 in0 2
"""
PNNX = """7767517
Pad     Pad_2  1 1 2 3 pads=(0,0,1,2,0,0,3,4) value=-inf #2=(1,32,8,8)f32
"""


def test_a_pad_gets_back_its_amounts() -> None:
    lines = convert_pads(NCNN, PNNX).splitlines()
    assert lines[:3] == NCNN.splitlines()[:3]
    kind, name, *rest = lines[3].split()
    assert (kind, name) == ("Padding", "Pad_2")
    # Top, bottom, left, right, constant mode, and a number in place of minus infinity.
    assert rest == ["1", "1", "in0", "2", "0=1", "1=3", "2=2", "3=4", "4=0", "5=-3.400000e+38"]


def test_other_networks_stay_as_they_are() -> None:
    text = "7767517\n1 1\nInput in0 0 1 in0\n"
    assert convert_pads(text, "") == text
