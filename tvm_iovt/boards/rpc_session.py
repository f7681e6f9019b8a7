"""A client's session with a board, inside of a process of its own: TVM's calls can block for ever.

`session` starts it as a `WorkerProcess` and ends it at deadlines.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tvm_iovt.boards import channels

ENVIRONMENT = {"TVM_USE_RUNTIME_LIB": "1"}
"""Variables of the process: the compiler, 240 MB, is not needed to talk to a board."""

_DEVICE_TYPES = {"llvm": 1, "cuda": 2, "vulkan": 7}  # DLDeviceType of dlpack.h
_PROBE_SIZE = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteStage:
    """One stage of a network to run on a board.

    Attributes:
        library: The shared library, here.
        kind: TVM's kind of target: `llvm`, `cuda`, `vulkan`.
        inputs: Names of the tensors that it takes, in order.
        outputs: Names of the tensors that it makes, in order.
    """

    library: Path
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class RpcSession:
    """A session. Tensors, modules and timings are the board's; arrays are this process's."""

    def __init__(self) -> None:
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
        import tvm

        self._tvm = tvm
        self._session: Any = None
        self._uploads = 0

    def open(self, host: str, port: int, match_key: str, limit_s: float) -> None:
        """Connect to a board; before everything else.

        Args:
            host: Of the RPC server.
            port: Of the RPC server.
            match_key: The word that it expects, from the tracker.
            limit_s: The server ends the session after that many seconds; 0 for never.
        """
        from tvm import rpc

        self._session = rpc.connect(host, port, match_key, math.ceil(limit_s))

    def echo(self, size_bytes: int) -> float:
        """Send bytes to the board and back.

        Returns:
            Seconds that took.

        Raises:
            ValueError: Others came back.
        """
        sent = np.random.default_rng(0).integers(0, 256, size_bytes, np.uint8)
        began_s = time.perf_counter()
        returned = self._place(sent, "llvm").numpy()
        took_s = time.perf_counter() - began_s
        if not np.array_equal(sent, returned):
            message = (
                f"of {size_bytes} bytes, {np.count_nonzero(sent != returned)} came back changed"
            )
            raise ValueError(message)
        return took_s

    def probe(self, library: Path) -> tuple[int, int, int]:
        """Run the tiny kernel of `probe_kernel.cc`.

        Returns:
            The version that libtvm_ffi on the board gives itself, which is not that of its package.

        Raises:
            ValueError: It computed something else.
        """
        kernel = self.load_library(library)["iovt_probe"]
        x = np.arange(_PROBE_SIZE, dtype=np.float32)
        y = self._place(np.zeros_like(x), "llvm")
        version = int(kernel(self._place(x, "llvm"), y))
        if not np.array_equal(y.numpy(), 3 * x + 1):
            message = "3 x + 1 came out wrong"
            raise ValueError(message)
        return version // 1_000_000, version // 1000 % 1000, version % 1000

    def own_version(self) -> tuple[int, int, int]:
        """The version that libtvm_ffi of this process gives itself."""
        import ctypes

        found = (ctypes.c_uint32 * 3)()
        ctypes.CDLL(None).TVMFFIGetVersion(found)
        return found[0], found[1], found[2]

    def has_function(self, name: str) -> bool:
        """Whether the board's runtime has a global function of that name."""
        try:
            self._session.get_function(name)
        except Exception:  # TVM raises plain and unrelated classes
            return False
        return True

    def open_channel(self, word: str) -> bool:
        """Have the board expect a further connection that says a word; False if it cannot."""
        try:
            opened = self._session.get_function(channels.OPEN_CHANNEL)
        except Exception:  # as in `has_function`: a board of an older version, or TVM's own server
            return False
        return bool(opened(word))

    def load_library(self, library: Path, shared: str = "") -> Any:
        """Upload a shared library and load it there; the module.

        Args:
            library: The file here.
            shared: A name under which all connections of the session have the library together,
                see `channels`; it is uploaded once then.
        """
        self._uploads += 1
        # The dynamic loader knows libraries by their names; other channels upload there, too.
        name = f"{os.getpid()}-{self._uploads}-{library.name}"
        if shared:
            name = f"{channels.SHARED}{shared}"
            if self._session.get_function(channels.IS_LOADED)(name):
                return self._session.load_module(name)
        self._session.upload(str(library), name)
        module = self._session.load_module(name)
        self._session.remove(name)  # is in memory now; the board's storage may be small
        return module

    def device(self, kind: str) -> Any:
        """The board's first device of a kind of target."""
        return self._session.device(_DEVICE_TYPES[kind], 0)

    def _place(self, array: np.ndarray, kind: str) -> Any:
        return self._tvm.runtime.tensor(np.ascontiguousarray(array), self.device(kind))


class NetworkSession(RpcSession):
    """A session that runs whole networks."""

    def __init__(self) -> None:
        super().__init__()
        self._networks: list[_Network] = []

    def load(self, stages: Sequence[RemoteStage], outputs: Sequence[str], shared: str = "") -> int:
        """Upload a network; its number, for the other methods.

        Args:
            stages: In the order to run them.
            outputs: Names of the tensors that `run` returns.
            shared: For the only stage, see `load_library`.
        """
        self._networks.append(_Network(self, stages, outputs, shared))
        return len(self._networks) - 1

    def run(self, network: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run a network once, from arrays to arrays; its inputs stay placed for `time_device`."""
        return self._networks[network].run(inputs)

    def use_threads(self, threads: int) -> int:
        """Have the board compute what comes through this connection with so many threads.

        Returns:
            The number that it uses: fewer if it has fewer.
        """
        big_cores_first = 1  # ThreadGroup::AffinityMode::kBig
        count = self._session.get_function("runtime.NumThreads")
        if count() != threads:  # more than it has cores are not made
            self._session.get_function("runtime.config_threadpool")(big_cores_first, threads)
        return int(count())

    def receive(self, network: int, inputs: dict[str, np.ndarray]) -> None:
        """The first third of `run`: bring the inputs to the board."""
        self._networks[network].receive(inputs)

    def compute(self, network: int) -> None:
        """The second third of `run`; returns when the board has computed."""
        self._networks[network].compute()

    def send(self, network: int) -> dict[str, np.ndarray]:
        """The last third of `run`: what `compute` made."""
        return self._networks[network].send()

    def time_device(self, network: int, number: int, repeat: int) -> list[float]:
        """Seconds of one inference on the inputs of the last `run`, copies excluded.

        Args:
            network: Its number.
            number: Inferences that each sample is the average of.
            repeat: Samples.
        """
        return self._networks[network].time_device(number, repeat)

    def time_end_to_end(
        self, network: int, inputs: dict[str, np.ndarray], repeat: int
    ) -> list[float]:
        """Seconds of one inference from arrays here to arrays here, `repeat` samples."""
        samples = []
        for _ in range(repeat):
            began_s = time.perf_counter()
            self._networks[network].run(inputs)
            samples.append(time.perf_counter() - began_s)
        return samples


class _Network:
    """The virtual machines of a network's stages on the board."""

    def __init__(
        self,
        session: NetworkSession,
        stages: Sequence[RemoteStage],
        outputs: Sequence[str],
        shared: str,
    ) -> None:
        from tvm.runtime.vm import VirtualMachine

        self._session = session
        self._stages = tuple(stages)
        self._outputs = tuple(outputs)
        self._machines = []
        for stage in stages:
            module = session.load_library(stage.library, shared)
            self._machines.append(VirtualMachine(module, session.device(stage.kind)))
        self._placed: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        self._timers: dict[tuple[int, int], list[Any]] = {}

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        self.receive(inputs)
        self.compute()
        return self.send()

    def receive(self, inputs: dict[str, np.ndarray]) -> None:
        for name, array in inputs.items():
            if name in self._placed:
                self._placed[name].copyfrom(array)
            else:
                kind = next(s.kind for s in self._stages if name in s.inputs)
                self._placed[name] = self._session._place(array, kind)

    def compute(self) -> None:
        values = dict(self._placed)
        for stage, machine in zip(self._stages, self._machines, strict=True):
            machine.set_input("main", *(values[name] for name in stage.inputs))
            machine.invoke_stateful("main")
            results = machine.get_outputs("main")
            results = results if isinstance(results, tuple) else (results,)
            values.update(zip(stage.outputs, results, strict=True))
        for kind in {stage.kind for stage in self._stages} - {"llvm"}:
            self._session.device(kind).sync()
        self._values = values

    def send(self) -> dict[str, np.ndarray]:
        return {name: self._values[name].numpy() for name in self._outputs}

    def time_device(self, number: int, repeat: int) -> list[float]:
        totals = [0.0] * repeat
        for timer in self._timer(number, repeat):
            totals = [a + b for a, b in zip(totals, timer().results, strict=True)]
        return totals

    def _timer(self, number: int, repeat: int) -> list[Any]:
        found = self._timers.get((number, repeat))
        if found is None:
            found = []
            for stage, machine in zip(self._stages, self._machines, strict=True):
                given = (self._values[name] for name in stage.inputs)
                machine.save_function("main", "timed", *given, include_return=False)
                device = self._session.device(stage.kind)
                found.append(
                    machine.module.time_evaluator("timed", device, number=number, repeat=repeat)
                )
            self._timers[number, repeat] = found
        return found
