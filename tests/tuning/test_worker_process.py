from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tvm_iovt.tuning.worker_process import CallFailed, WorkerLost, WorkerProcess

SERVICE = """
import ctypes, os, signal, subprocess, sys, time
import numpy as np

class Service:
    def __init__(self, greeting="hello"):
        if greeting == "raise":
            raise ValueError("not today\\nand not tomorrow")
        if greeting == "die":
            print("the last words", flush=True)
            os._exit(3)
        self.greeting = greeting

    def greet(self, name):
        return f"{self.greeting} {name}"

    def double(self, array):
        return array * 2

    def fail(self):
        raise RuntimeError("Traceback\\n  somewhere\\nthe reason")

    def signal(self, number):
        os.kill(os.getpid(), number)
        time.sleep(60)

    def crash(self):
        ctypes.string_at(0)

    def sleep(self, seconds):
        time.sleep(seconds)

    def exit(self):
        os._exit(7)

    def print(self, count):
        os.write(1, b"x" * count)
        print("to stderr", file=sys.stderr, flush=True)

    def start_others(self, shell=False):
        # Like a linker: a session of its own, and a child behind it.
        code = "import subprocess, time; subprocess.Popen(['sleep', '1000']); time.sleep(1000)"
        child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
        while True:
            with open(f"/proc/{child.pid}/task/{child.pid}/children") as stream:
                below = stream.read().split()
            if below:
                return [child.pid, *map(int, below)]
            time.sleep(0.01)

    def allocate(self, count_bytes):
        return int(np.ones(count_bytes, np.uint8)[::4096].sum())

    def surroundings(self):
        return {
            "torch": sys.modules.get("torch", "absent"),
            "stdin": os.readlink("/proc/self/fd/0"),
            "session": os.getsid(0),
            "variable": os.environ.get("COLOUR"),
            "core": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
        }

    def bytes(self):
        os.write(int(sys.argv[4]), b"nonsense" * 4)
"""


@pytest.fixture
def service(tmp_path, monkeypatch):
    """Starts workers, and closes them."""
    (tmp_path / "worker_test_service.py").write_text(SERVICE)
    monkeypatch.syspath_prepend(str(tmp_path))
    started = []

    def start(*arguments, **options):
        worker = WorkerProcess("worker_test_service:Service", arguments, **options)
        started.append(worker)
        worker.start()
        return worker

    yield start
    for worker in started:
        worker.close()


def is_running(pid):
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def ends(pids):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not any(map(is_running, pids)):
            return True
        time.sleep(0.02)
    return False


def test_requests_are_answered(service):
    worker = service("good morning")
    assert worker.call("greet", "world", timeout_s=60) == "good morning world"
    assert worker.alive and worker.pid != os.getpid()


def test_large_values_pass_both_ways(service):
    worker = service()
    array = np.arange(5_000_000, dtype=np.float32)
    np.testing.assert_array_equal(worker.call("double", array, timeout_s=30), array * 2)


def test_an_exception_is_one_line_and_the_worker_goes_on(service):
    worker = service()
    with pytest.raises(CallFailed, match=r"^RuntimeError: the reason$"):
        worker.call("fail", timeout_s=60)
    with pytest.raises(CallFailed, match="AttributeError"):
        worker.call("unknown", timeout_s=60)
    assert worker.call("greet", "again", timeout_s=60) == "hello again"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM", "SIGABRT", "SIGFPE"])
def test_a_death_is_told_with_its_signal(service, name):
    worker = service()
    with pytest.raises(WorkerLost, match=f"^died of {name}$") as caught:
        worker.call("signal", signal.Signals[name], timeout_s=60)
    assert caught.value.signal == signal.Signals[name]
    assert not worker.alive
    with pytest.raises(WorkerLost):
        worker.call("greet", "ghost", timeout_s=60)


def test_a_crash_is_told(service):
    with pytest.raises(WorkerLost, match=r"^died of SIGSEGV$"):
        service().call("crash", timeout_s=60)


def test_an_exit_is_told(service):
    with pytest.raises(WorkerLost, match=r"^ended with exit status 7$"):
        service().call("exit", timeout_s=60)


def test_a_deadline_is_kept(service):
    worker = service()
    began_s = time.monotonic()
    with pytest.raises(WorkerLost, match=r"^did not answer within 0.5 s$"):
        worker.call("sleep", 100, timeout_s=0.5)
    assert time.monotonic() - began_s < 60
    assert ends([worker.pid])


def test_a_jump_of_the_clock_is_no_deadline(service, monkeypatch):
    worker = service()
    for year_s in (-3e7, 3e7):
        monkeypatch.setattr(time, "time", lambda year_s=year_s: 1e9 + year_s)
        assert worker.call("sleep", 0.2, timeout_s=60) is None
        with pytest.raises(WorkerLost, match="did not answer within"):
            service().call("sleep", 100, timeout_s=0.3)


def test_what_is_printed_does_not_disturb_and_is_kept(service):
    worker = service()
    worker.call("print", 3_000_000, timeout_s=60)
    assert worker.call("greet", "you", timeout_s=60) == "hello you"
    assert worker.last_words.endswith("xxx" + "to stderr")
    assert len(worker.last_words) <= 4096


def test_a_start_that_fails_says_why(service):
    with pytest.raises(CallFailed, match="ValueError: and not tomorrow"):
        service("raise")
    with pytest.raises(WorkerLost, match="ended with exit status 3") as caught:
        service("die")
    assert caught.value.seen == "the last words"
    worker = WorkerProcess("no_such_module:Service")
    with pytest.raises(CallFailed, match=r"ModuleNotFoundError.*no_such_module"):
        worker.start()


def test_nonsense_from_a_worker_ends_it(service):
    worker = service()
    with pytest.raises(WorkerLost, match="nonsense"):
        worker.call("bytes", timeout_s=60)
    assert ends([worker.pid])


def test_a_worker_has_no_torch_no_terminal_and_a_session_of_its_own(service):
    terminal, _ = ours = os.pipe()
    before = os.dup(0)
    os.dup2(terminal, 0)
    try:
        worker = service(environment={"COLOUR": "green"}, growth_bytes=1 << 30)
    finally:
        os.dup2(before, 0)
        for descriptor in (before, *ours):
            os.close(descriptor)
    found = worker.call("surroundings", timeout_s=60)
    assert found["torch"] is None
    assert found["stdin"] == "/dev/null"
    assert found["session"] != os.getsid(0)
    assert found["variable"] == "green"
    assert found["core"] == 0


def test_memory_is_limited_to_what_was_allowed(service):
    worker = service(growth_bytes=1 << 28)
    assert worker.call("allocate", 1 << 26, timeout_s=60) == (1 << 26) // 4096
    with pytest.raises(CallFailed, match="Memory"):
        worker.call("allocate", 50 << 30, timeout_s=60)
    assert worker.call("greet", "you", timeout_s=60) == "hello you"


def test_close_ends_what_the_worker_has_started(service):
    worker = service()
    others = worker.call("start_others", timeout_s=60)
    assert len(others) == 2 and all(map(is_running, others))
    worker.close()
    worker.close()
    assert ends([worker.pid, *others])
    with pytest.raises(WorkerLost, match="closed"):
        worker.call("greet", "ghost", timeout_s=1)


def test_a_death_ends_what_the_worker_has_started(service):
    worker = service()
    others = worker.call("start_others", timeout_s=60)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(WorkerLost, match="SIGKILL"):
        worker.call("greet", "ghost", timeout_s=60)
    assert ends([worker.pid, *others])


def test_a_deadline_ends_what_the_worker_has_started(service):
    worker = service()
    others = worker.call("start_others", timeout_s=60)
    with pytest.raises(WorkerLost, match="did not answer"):
        worker.call("sleep", 100, timeout_s=0.2)
    assert ends([worker.pid, *others])


def test_another_thread_may_end_a_call(service):
    worker = service()
    threading.Timer(0.3, worker.kill).start()
    began_s = time.monotonic()
    with pytest.raises(WorkerLost, match=r"^was ended$"):
        worker.call("sleep", 100, timeout_s=90)
    assert time.monotonic() - began_s < 60


def test_nothing_outlives_a_parent_that_is_killed(tmp_path):
    (tmp_path / "worker_test_service.py").write_text(SERVICE)
    parent = textwrap.dedent("""
        import sys, time
        sys.path.insert(0, sys.argv[1])
        from tvm_iovt.tuning.worker_process import WorkerProcess
        worker = WorkerProcess("worker_test_service:Service")
        worker.start()
        others = worker.call("start_others", timeout_s=60)
        print(worker.pid, *others, flush=True)
        worker.call("sleep", 1000, timeout_s=1000)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    pids = [int(word) for word in process.stdout.readline().split()]
    assert len(pids) == 3 and all(map(is_running, pids))
    guard = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
    process.kill()
    process.wait()
    process.stdout.close()
    assert ends([guard, *pids])


def test_an_interrupt_at_the_terminal_does_not_reach_the_worker(tmp_path):
    """Ctrl-C goes to the process group of the terminal."""
    (tmp_path / "worker_test_service.py").write_text(SERVICE)
    parent = textwrap.dedent("""
        import signal, sys
        sys.path.insert(0, sys.argv[1])
        from tvm_iovt.tuning.worker_process import WorkerProcess
        worker = WorkerProcess("worker_test_service:Service")
        worker.start()
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        print("ready", flush=True)
        worker.call("sleep", 1, timeout_s=1000)
        print(worker.call("greet", "you", timeout_s=60), worker.last_words, flush=True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            worker.call("sleep", 1000, timeout_s=1000)
        except KeyboardInterrupt:
            print(worker.alive, flush=True)
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", parent, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)
    printed, errors = process.communicate(timeout=60)
    assert printed.splitlines() == ["interrupted", "hello you ", "False"]
    assert (errors, process.returncode) == ("", 0)
