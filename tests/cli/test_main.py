from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import click
import pytest

from tvm_iovt import errors
from tvm_iovt.cli import main
from tvm_iovt.errors import IovtError, ModelError
from tvm_iovt.interrupts import InterruptedByUser


def raising(error: BaseException) -> click.Command:
    @click.command("compile")
    @click.option("--json", "as_json", is_flag=True)
    @click.option("-v", "verbosity", count=True)
    def command(as_json: bool, verbosity: int) -> None:
        raise error

    return command


@pytest.fixture
def outcome(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    def call(error: BaseException, *flags: str) -> tuple[int, str, str]:
        monkeypatch.setattr(main._LazyGroup, "get_command", lambda *_: raising(error))
        code = main.run(["compile", *flags])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def all_errors() -> list[type[IovtError]]:
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    return [c for c in classes if issubclass(c, IovtError)]


@pytest.mark.parametrize("cls", all_errors(), ids=lambda c: c.__name__)
def test_every_error_has_its_exit_code_and_three_lines(outcome, cls) -> None:
    code, out, err = outcome(cls("It failed", seen="this", do="that"))
    assert code == cls.exit_code
    assert err.splitlines() == ["error: It failed", "  seen: this", "  do:   that"]
    assert out == ""


def test_exit_codes_are_distinct_by_kind() -> None:
    direct = [c for c in all_errors() if c.__base__ is IovtError]
    codes = [c.exit_code for c in direct]
    assert len(set(codes)) == len(codes)
    assert not {0, 1, 130} & set(codes)


def test_json_error_is_on_stdout(outcome) -> None:
    code, out, _ = outcome(ModelError("Bad", seen="x", do="y"), "--json")
    assert json.loads(out) == {"error": {"what": "Bad", "seen": "x", "do": "y", "exit_code": 3}}
    assert code == 3


def test_trace_only_on_request(outcome) -> None:
    assert "Traceback" not in outcome(ModelError("Bad"))[2]
    assert "Traceback" in outcome(ModelError("Bad"), "-vv")[2]


def test_bug_is_called_a_bug(outcome) -> None:
    code, _, err = outcome(ZeroDivisionError("division by zero"))
    assert code == 1
    assert "ZeroDivisionError" in err
    assert "bug" in err
    assert "Traceback" not in err


def test_interrupt_exits_with_130(outcome) -> None:
    assert outcome(KeyboardInterrupt())[0] == 130


def test_interrupt_hidden_in_another_error_is_found(outcome) -> None:
    error = RuntimeError("callback failed")
    error.__cause__ = KeyboardInterrupt()
    assert outcome(error)[0] == 130


@pytest.mark.parametrize("wrapped", [False, True])
def test_an_interrupt_that_crossed_tvm_is_found(outcome, wrapped: bool) -> None:
    import tvm

    @tvm.transform.module_pass(opt_level=0)
    def interrupted(_module, _context):
        raise InterruptedByUser

    with pytest.raises(RuntimeError) as caught:
        interrupted(tvm.IRModule({}))
    error: Exception = caught.value
    if wrapped:
        error = ModelError("TVM cannot generate code")
        error.__cause__ = caught.value
    assert outcome(error)[0] == 130


def leaves(command: click.Command) -> list[click.Command]:
    if not isinstance(command, click.Group):
        return [command]
    ctx = click.Context(command)
    found = [command.get_command(ctx, name) for name in command.list_commands(ctx)]
    return [leaf for child in found if child is not None for leaf in leaves(child)]


@pytest.mark.parametrize("command", leaves(main.cli), ids=lambda c: str(c.name))
def test_every_verb_takes_the_common_flags(command: click.Command) -> None:
    flags = {flag for parameter in command.params for flag in parameter.opts}
    assert {"--json", "-v", "--config"} <= flags


def test_unknown_verb_is_a_usage_error() -> None:
    assert main.run(["translate"]) == 2


def test_help_is_fast_and_imports_nothing_heavy() -> None:
    code = (
        "import sys, time; from tvm_iovt.cli.main import run; code = run(['--help']);"
        "heavy = {'tvm', 'tvm_ffi', 'torch', 'onnx', 'onnxruntime', 'numpy', 'rich', 'optuna'};"
        "code = f'{heavy & set(sys.modules)}' if heavy & set(sys.modules) else code;"
        # The limit is 0.3 s on an idle machine; tests share theirs.
        "sys.exit('too slow' if time.process_time() > 2 else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "compile" in done.stdout


def test_config_file_gives_defaults_that_flags_override(tmp_path: Path, capsys) -> None:
    config = tmp_path / "iovt.toml"
    config.write_text("[targets]\nname = 'arm'\n")
    assert main.run(["targets", "--config", str(config), "--json"]) == 2
    config.write_text("[compile]\ntargets = 'nowhere'\n")
    assert main.run(["compile", "m.onnx", "--config", str(config)]) == 4
    assert "'nowhere'" in capsys.readouterr().err
    assert main.run(["compile", "m.onnx", "--config", str(config), "--targets", "x"]) == 4
    assert "'x'" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["[compile]\nspeed = 3\n", "[compile\n"])
def test_wrong_config_is_a_usage_error(tmp_path: Path, capsys, text: str) -> None:
    config = tmp_path / "iovt.toml"
    config.write_text(text)
    assert main.run(["compile", "m.onnx", "--config", str(config)]) == 2
    assert "Traceback" not in capsys.readouterr().err
