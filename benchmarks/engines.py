"""Engine: a rival or fastlstm itself in a process of its own, on the CPUs given, asked over a pipe. Used by ``bench_rivals``."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
OURS = "fastlstm"
RIVALS = ("onnxruntime", "openvino", "litert", "torch", "keras_tensorflow", "keras_jax", "keras_torch")
# OpenBLAS does not know every processor with AVX-512 and would run AVX2 code on it.
BLAS_CORE = {"avx512": "SKYLAKEX", "avx2": "HASWELL"}
THREADS = ("FASTLSTM", "OMP", "OPENBLAS", "MKL", "NUMEXPR", "TF_NUM_INTRAOP", "TF_NUM_INTEROP")


# What a shell may have left behind and would change the speed of some engines only.
UNSET = {
    "OPENBLAS_L2_SIZE",
    "OPENBLAS_CORETYPE",
    "XLA_FLAGS",
    "TF_XLA_FLAGS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "KMP_BLOCKTIME",
}


class EngineError(Exception):
    """An engine is not installed, died or does not answer; the text is for the table."""


def python_of(name: str) -> Path:
    """The interpreter with the engine's packages: this one for fastlstm, else .venv-rivals/<name>."""
    if name == OURS:
        return Path(sys.executable)
    return ROOT / ".venv-rivals" / name / "bin" / "python"


def environment(isa: str, threads: int) -> dict[str, str]:
    """So many threads in every library that reads a variable, and the BLAS kernels of the processor's kind for all alike."""
    counts = {f"{name}_NUM_THREADS": str(threads) for name in THREADS} | {"BENCH_THREADS": str(threads)}
    more = {"OPENBLAS_CORETYPE": BLAS_CORE[isa]} if isa in BLAS_CORE else {}
    more |= {"FASTLSTM_DEVICE": "cpu", "CUDA_VISIBLE_DEVICES": "", "PYTHONDONTWRITEBYTECODE": "1"}
    inherited = {name: value for name, value in os.environ.items() if name not in UNSET}
    return {**inherited, **counts, **more}


class Engine:
    """Starts its process at the first question and again after it died. It runs on ``cpus``, with as many threads."""

    def __init__(self, name: str, cpus: Sequence[int], isa: str, log: Path, timeout: float):
        self.name, self.cpus, self.isa, self.log, self.timeout = name, cpus, isa, log, timeout
        self.process: subprocess.Popen | None = None

    def ask(self, **request: Any) -> Any:
        """Sends one request and waits for the answer. EngineError if there is none within ``timeout`` seconds."""
        process = self.process or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer below tells
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            answered = selector.select(self.timeout)
        line = process.stdout.readline() if answered else ""
        if line:
            return json.loads(line)
        code = process.wait() if answered else None  # its end of the pipe is closed: it ends, too
        self.close(kill=True)
        if not answered:
            raise EngineError(f"no answer to {request['do']} within {self.timeout:.0f} s")
        raise EngineError(f"died with {code} at {request['do']}: {self.last_words()}")

    def _start(self) -> subprocess.Popen:
        python = python_of(self.name)
        if not python.exists():
            raise EngineError("not installed")
        adapter = "ours" if self.name == OURS else self.name
        command = [str(python), "-m", "benchmarks.rivals.worker", adapter, ",".join(map(str, self.cpus))]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(self.isa, len(self.cpus)),
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        return self.process

    def last_words(self) -> str:
        """The last line that the process wrote to stderr."""
        lines = self.log.read_text("utf-8", errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1][:300] if lines else "no message"

    def close(self, kill: bool = False) -> None:
        """Ends the process: at once, or by closing its stdin."""
        process, self.process = self.process, None
        if process is None:
            return
        if kill:
            process.kill()
        process.communicate()


def write_tflite(requests: list[dict], log: Path) -> str | None:
    """Has the environment of keras_tensorflow write the files for ``litert``; the reason where it cannot."""
    python = python_of("keras_tensorflow")
    if not python.exists():
        return "the environment keras_tensorflow, which makes the .tflite files, is not installed"
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    with log.open("a") as out:
        command = [str(python), "-m", "benchmarks.rivals.write_tflite"]
        run = subprocess.run(command, cwd=ROOT, input=lines, text=True, stdout=out, stderr=out, check=False)
    return None if run.returncode == 0 else f"write_tflite ended with {run.returncode}"
