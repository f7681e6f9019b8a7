"""How each runtime loads a network and runs it, from NumPy arrays to NumPy arrays.

A runtime is imported by its own loader only: this module is part of every measured process.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Job:
    """What a process shall run.

    Attributes:
        runtime: Key of `LOADERS`.
        artifact: The file or folder that the runtime loads.
        threads: Threads that compute.
        precision: For runtimes that choose one: `f32`, or empty for their default.
        input_names: Inputs of the network, in order.
        output_names: Outputs of the network, in order.
    """

    runtime: str
    artifact: str
    threads: int
    precision: str
    input_names: Sequence[str]
    output_names: Sequence[str]


@dataclass(frozen=True)
class Loaded:
    """A network in a runtime.

    Attributes:
        run: Runs it once; the outputs in the network's order.
        precision: What it computes in, as far as the runtime tells.
    """

    run: Callable[[], list[Array]]
    precision: str = "f32"


def _tvm_iovt(job: Job, inputs: dict[str, Array]) -> Loaded:
    from tvm_iovt import runtime  # TVM's runtime library alone, no compiler

    executor = runtime.load(Path(job.artifact), threads=job.threads)

    def run() -> list[Array]:
        return list(executor.run(inputs).values())

    return Loaded(run)


def _onnxruntime(job: Job, inputs: dict[str, Array]) -> Loaded:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        job.artifact, options, providers=["CPUExecutionProvider"]
    )
    return Loaded(lambda: list(session.run(None, inputs)))


def _openvino(job: Job, inputs: dict[str, Array]) -> Loaded:
    openvino: Any = importlib.import_module("openvino")  # without type information

    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": job.threads,
    }
    if job.threads < len(os.sched_getaffinity(0)):
        # It would bind its threads to the first cores, busy or not.
        settings["ENABLE_CPU_PINNING"] = False
    if job.precision:
        settings["INFERENCE_PRECISION_HINT"] = job.precision
    compiled = openvino.Core().compile_model(job.artifact, "CPU", settings)
    chosen = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    request = compiled.create_infer_request()
    for index, value in enumerate(inputs.values()):
        request.set_input_tensor(index, openvino.Tensor(value))
    count = len(job.output_names)

    def run() -> list[Array]:
        request.infer()
        return [request.get_output_tensor(index).data.copy() for index in range(count)]

    return Loaded(run, precision=chosen)


def _ncnn(job: Job, inputs: dict[str, Array]) -> Loaded:
    ncnn: Any = importlib.import_module("ncnn")  # without type information

    network = ncnn.Net()
    network.opt.num_threads = job.threads
    network.opt.use_vulkan_compute = False
    network.opt.use_fp16_packed = False
    network.opt.use_fp16_storage = False
    network.opt.use_fp16_arithmetic = False
    network.opt.use_bf16_storage = False
    folder = Path(job.artifact)
    if network.load_param(str(folder / "network.ncnn.param")):
        raise RuntimeError("ncnn cannot load the network that pnnx wrote")
    network.load_model(str(folder / "network.ncnn.bin"))
    # ncnn has no batch dimension; pnnx names inputs and outputs by their position.
    mats = [ncnn.Mat(value[0]).clone() for value in inputs.values()]
    count = len(job.output_names)

    def run() -> list[Array]:
        extractor = network.create_extractor()
        for index, mat in enumerate(mats):
            extractor.input(f"in{index}", mat)
        return [np.array(extractor.extract(f"out{index}")[1]) for index in range(count)]

    return Loaded(run)


def _mnn(job: Job, inputs: dict[str, Array]) -> Loaded:
    mnn: Any = importlib.import_module("MNN")  # without type information

    interpreter = mnn.Interpreter(job.artifact)
    session = interpreter.createSession(
        {"backend": "CPU", "numThread": job.threads, "precision": "high"}
    )
    layout = mnn.Tensor_DimensionType_Caffe

    def host(value: Array) -> Any:
        return mnn.Tensor(value.shape, mnn.Halide_Type_Float, value, layout)

    feeds = [
        (interpreter.getSessionInput(session, name), host(value)) for name, value in inputs.items()
    ]
    fetches = []
    for name in job.output_names:
        device = interpreter.getSessionOutput(session, name)
        fetches.append((device, host(np.zeros(device.getShape(), np.float32))))

    def run() -> list[Array]:
        for device, value in feeds:
            device.copyFrom(value)
        interpreter.runSession(session)
        outputs = []
        for device, value in fetches:
            device.copyToHostTensor(value)
            outputs.append(np.array(value.getNumpyData()))
        return outputs

    return Loaded(run)


LOADERS: dict[str, Callable[[Job, dict[str, Array]], Loaded]] = {
    "tvm-iovt": _tvm_iovt,
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "ncnn": _ncnn,
    "mnn": _mnn,
}
