import subprocess
import sys

import pytest

NEED_TORCH = (
    "blocks",
    "branch",
    "deploy",
    "depthwise_blocks",
    "detector",
    "digit_network",
    "evaluation_mode",
    "export",
    "folding",
    "mobileone",
    "multi_branch",
    "networks",
    "repvgg",
)
FREE = ("arguments", "branch_config", "detections")


def run_without_torch(code: str) -> subprocess.CompletedProcess[str]:
    blocked = f"import sys; sys.modules['torch'] = None; {code}"
    return subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)


@pytest.mark.parametrize("name", NEED_TORCH)
def test_modules_say_how_to_install_torch(name):
    done = run_without_torch(f"import tvm_iovt.nn.{name}")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-3:]
    assert "UsageError: Multi-branch networks need the Python package torch" in last[0]
    assert 'pip install "tvm-iovt[torch]"' in last[-1]


@pytest.mark.parametrize("name", ["", *(f".{name}" for name in FREE)])
def test_modules_that_need_no_torch(name):
    assert run_without_torch(f"import tvm_iovt.nn{name}").returncode == 0
