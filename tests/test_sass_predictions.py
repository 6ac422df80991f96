"""The model of the CUDA kernels' speed: the simulated SM, the record, and what is compiled."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import sys

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("elftools")

from tools import cuda_objects
from tools.sass_model import __main__ as command
from tools.sass_model import predictions, simulator
from tools.sass_model.disassembly import SassError
from tools.sass_model.execution import Case
from tools.sass_model.operations import OPERATIONS
from tools.sass_model.warp import CONTROL

# ---- the simulated SM

needs_compiler = pytest.mark.skipif(
    shutil.which(shlex.split(os.environ.get("CXX", "c++"))[0]) is None,
    reason="the simulator is a C++ program",
)


def trace(pipe: str, length: int, **fields) -> np.ndarray:
    """The same instruction again and again, without barriers."""
    steps = np.zeros(length, simulator.STEP)
    steps["pipe"] = simulator.pipe_names().index(pipe)
    steps["write_barrier"] = steps["read_barrier"] = 7
    for name, value in {"stall": 1, **fields}.items():
        steps[name] = value
    return steps


# A block of four warps, one for each scheduler; four blocks at a time leave no clock unused but at
# the start and the end of a thousand instructions.
@pytest.mark.parametrize(
    ("pipe", "fields", "clocks"),
    (
        ("FMA", {}, 1000),
        ("other", {}, 1000),
        ("ALU", {}, 2000),
        ("IMAD", {}, 2000),
        ("FP64", {}, 2000),
        ("XU", {}, 8000),
        ("shared", {"wavefronts": 1}, 4000),
        ("shared", {"wavefronts": 4}, 16000),
    ),
)
@needs_compiler
def test_a_pipe_bounds_what_uses_only_it(pipe, fields, clocks):
    timing = simulator.simulate([trace(pipe, 1000, **fields)] * 4, 4)
    assert timing.clocks == pytest.approx(clocks, rel=0.02)
    busiest = max(timing.pipe_clocks.values())
    assert busiest == pytest.approx(clocks, rel=1e-12)
    assert timing.instructions == {pipe: 4000}


@needs_compiler
def test_memory_bounds_warps_that_wait_for_it():
    loads = trace("global", 200, wavefronts=4, global_bytes=512, write_barrier=0, waits_for=1)
    timing = simulator.simulate([loads] * 4, 16)
    assert timing.pipe_clocks["global"] == pytest.approx(4 * 200 * 512 / 16.2, rel=1e-12)
    assert timing.clocks == pytest.approx(4 * 200 * 512 / 16.2, rel=0.02)
    # A quarter of the warps cannot ask for as much: 16 of them have 512 bytes each on their way.
    assert simulator.simulate([loads] * 4, 4).clocks == pytest.approx(200 * 800 / 4, rel=0.02)


@needs_compiler
def test_two_pipes_work_side_by_side():
    both = np.concatenate([trace("ALU", 500), trace("FMA", 500)])
    both = both[np.arange(1000) // 2 + np.arange(1000) % 2 * 500]  # in turns
    assert simulator.simulate([both] * 4, 4).clocks == pytest.approx(1000, rel=0.05)


# One warp alone: what it waits for adds up, and 300 clocks pass until the next block runs.
@pytest.mark.parametrize(
    ("pipe", "fields", "clocks"),
    (
        ("FMA", {"stall": 5}, 5 * 1000),
        ("XU", {"write_barrier": 0, "waits_for": 1}, 24 * 1000),
        ("shared", {"wavefronts": 1, "write_barrier": 1, "waits_for": 2}, 25 * 1000),
        ("shared", {"wavefronts": 4, "write_barrier": 1, "waits_for": 2, "is_shared_load": 1},
         34 * 1000),
        ("global", {"wavefronts": 1, "write_barrier": 1, "waits_for": 2}, 800 * 1000),
    ),
)  # fmt: skip
@needs_compiler
def test_latency_bounds_a_warp_that_waits(pipe, fields, clocks):
    timing = simulator.simulate([trace(pipe, 1000, **fields)], 1)
    assert timing.clocks == pytest.approx(clocks + 300, rel=0.01)


def barrier(number: int, arrivals: int) -> np.ndarray:
    """Of that many warps, and an instruction behind it."""
    steps = trace("other", 2, block_barrier=number)
    steps["arrivals"][0] = arrivals
    return steps


@needs_compiler
def test_warps_wait_for_each_other_at_barriers_of_their_block():
    work = trace("FMA", 1000, stall=5)
    first, second = [work, barrier(0, 2)], [barrier(0, 2), work]
    alone = simulator.simulate([work, work], 1).clocks
    timing = simulator.simulate([np.concatenate(first), np.concatenate(second)], 1)
    assert alone == pytest.approx(5000 + 300, rel=0.01)
    assert timing.clocks == pytest.approx(2 * 5000 + 20 + 300, rel=0.01)
    assert timing.instructions == {"FMA": 2000, "other": 4}
    # Two of three warps meet; blocks do not wait for each other.
    three = [np.concatenate(part) for part in (first, second, [work, work, work])]
    assert simulator.simulate(three, 1).clocks == pytest.approx(3 * 5000 + 300, rel=0.01)
    assert simulator.simulate(three, 4).clocks == pytest.approx((3 * 5000 + 300) / 4, rel=0.01)
    # Each barrier counts its own warps.
    apart = [np.concatenate(part) for k in (0, 1)
             for part in ([barrier(k, 2), work], [work, barrier(k, 2)])]  # fmt: skip
    assert simulator.simulate(apart, 1).clocks == pytest.approx(2 * 5000 + 20 + 300, rel=0.01)
    with pytest.raises(SassError, match="for ever"):
        simulator.simulate([barrier(0, 3), barrier(0, 3)], 1)


def meeting() -> np.ndarray:
    """At the barrier of a cluster: arrive and wait."""
    steps = trace("uniform", 2)
    steps["cluster_barrier"] = simulator.ARRIVES, simulator.WAITS
    return steps


@needs_compiler
def test_blocks_of_a_cluster_work_side_by_side_and_wait_for_each_other():
    work, rest = trace("FMA", 1000, stall=5), trace("FMA", 1)
    # Each on an SM of its own.
    both = [np.concatenate([work, meeting(), rest])] * 2
    timing = simulator.simulate(both, 1, cluster_size=2)
    assert timing.clocks == pytest.approx(5000 + 180 + 300, rel=0.01)
    assert timing.pipe_clocks["FMA"] == pytest.approx(1001 / 4)
    # One works in front of the barrier, the other behind it.
    apart = [np.concatenate([work, meeting(), rest]), np.concatenate([meeting(), work])]
    assert simulator.simulate(apart, 1, 2).clocks == pytest.approx(2 * 5000 + 180 + 300, rel=0.01)
    # What is done between arriving and waiting fills the time.
    arrive, wait = meeting()[:1], meeting()[1:]
    filled = [np.concatenate([work, arrive, wait, rest]),
              np.concatenate([arrive, work, wait, rest])]  # fmt: skip
    assert simulator.simulate(filled, 1, 2).clocks == pytest.approx(5000 + 180 + 300, rel=0.01)
    with pytest.raises(SassError, match="for ever"):
        simulator.simulate([np.concatenate([wait, rest]), np.concatenate([meeting(), rest])], 1, 2)


@needs_compiler
def test_a_cluster_reads_remote_memory_at_the_speed_of_the_network():
    fields = {"wavefronts": 4, "write_barrier": 0, "waits_for": 1}
    one = [trace("global", 500, remote_bytes=32, **fields)]
    assert simulator.simulate(one * 2, 1, 2).clocks == pytest.approx(500 * 182 + 300, rel=0.01)
    many = [trace("global", 500, remote_bytes=512, **fields)]
    timing = simulator.simulate(many * 32, 1, 2)
    assert timing.clocks == pytest.approx(16 * 500 * 512 / 16, rel=0.02)
    assert timing.pipe_clocks["remote"] == pytest.approx(16 * 500 * 512 / 16)


@pytest.mark.parametrize(
    ("threads", "registers", "shared_bytes", "blocks"),
    (
        (128, 94, 4096, 5),
        (128, 96, 0, 5),
        (128, 166, 4096, 3),
        (128, 168, 0, 3),
        (128, 255, 0, 2),
        (128, 32, 0, 16),
        (64, 168, 0, 6),
        (32, 32, 0, 32),
        (64, 80, 38944, 5),
        (128, 80, 112 * 1024, 2),
    ),
)
def test_blocks_of_an_sm(threads, registers, shared_bytes, blocks):
    assert simulator.blocks_at_once(threads, registers, shared_bytes) == blocks


@needs_compiler
def test_every_operation_has_a_pipe():
    for name in (*OPERATIONS, *CONTROL):
        assert simulator.pipe_of(name) in simulator.pipe_names()
    assert simulator.pipe_of("UIADD3") == "uniform"
    with pytest.raises(SassError, match="HMMA"):
        simulator.pipe_of("HMMA")


# ---- the record


def prediction(n: int = 8, clocks: float = 100.0) -> predictions.Prediction:
    case = Case("det", "float32", n)
    return predictions.Prediction(case, "WarpDeterminants<float, 8>", 96, 5, 78.0, {"ALU": 40.0},
                                  clocks, "ALU", 0.8)  # fmt: skip


def test_time_and_share_of_a_copy():
    one = prediction(8, 26.136)  # clocks of one SM of 132 at 1.98 GHz
    factor = predictions.CALIBRATION["det", "float32"]
    assert one.picoseconds == pytest.approx(100 * factor, rel=1e-12)
    assert one.share_of_copy == pytest.approx(65 * 4 / 4.244 / (100 * factor), rel=1e-12)
    complex_one = one._replace(case=Case("det", "complex64", 8))
    assert complex_one.picoseconds == one.picoseconds
    assert complex_one.share_of_copy == pytest.approx(2 * one.share_of_copy, rel=1e-12)
    block = one._replace(kernel="BlockDeterminants<float, 4, 0>")
    assert block.picoseconds == pytest.approx(100 * predictions.BLOCK_CALIBRATION, rel=1e-12)


@pytest.mark.parametrize(
    ("factor", "verdict", "wrong"),
    (
        (1.0, "", 0),
        (1.04, "", 0),
        (1.06, "SLOWER", 1),
        (0.96, "", 0),
        (0.9, "faster: record anew", 0),
    ),
)
def test_only_a_rise_beyond_the_tolerance_is_slower(factor, verdict, wrong, capsys):
    recorded = {"det float32 n=8": {"clocks": 100.0}, "det float32 n=5": {"clocks": 100.0}}
    found = predictions.compare(recorded, [prediction(8, 100.0 * factor), prediction(5)])
    assert [one.verdict for one in found] == [verdict, ""]
    assert command.report(found, Console(quiet=True)) == wrong
    assert ("from 100.0 to 106.0 clocks" in capsys.readouterr().out) == bool(wrong)


@pytest.fixture
def run_command(tmp_path, monkeypatch):
    """The command with one kernel; its record is in the folder."""
    monkeypatch.setattr(command, "RECORD", tmp_path / "record.json")
    monkeypatch.setattr(command, "cases", lambda: [Case("det", "float32", 8)])
    monkeypatch.setattr(command, "predict_all", lambda *_: iter([prediction()]))
    monkeypatch.setattr(command, "toolchain", lambda: "nvcc 1.0")

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["sass_model", *arguments])
        return command.main()

    return run


def test_nothing_is_compared_where_the_compiler_has_no_record(run_command, capsys):
    assert run_command() == 0
    assert "nothing is recorded for nvcc 1.0" in capsys.readouterr().out


def test_a_kernel_that_is_not_recorded_fails_until_it_is(run_command, tmp_path, capsys):
    record = tmp_path / "record.json"
    record.write_text('{"nvcc 1.0": {}, "another": {"x": 1}}')
    assert run_command() == 1
    output = capsys.readouterr().out
    assert "det float32 n=8 (WarpDeterminants<float, 8>): not in the record" in output
    assert "make cuda-model CUDA_MODEL_ARGS=--update" in output
    assert run_command("--update") == 0
    assert run_command() == 0
    written = json.loads(record.read_text())
    assert written["nvcc 1.0"]["det float32 n=8"]["clocks"] == 100.0
    assert written["another"] == {"x": 1}


def test_code_that_the_model_does_not_know_fails(run_command, monkeypatch, capsys):
    def fail(*_):
        raise SassError("the model does not know HMMA")

    monkeypatch.setattr(command, "predict_all", fail)
    assert run_command("--update") == 2
    assert "no prediction: the model does not know HMMA" in capsys.readouterr().out


def test_the_committed_record_is_complete():
    record = json.loads(command.RECORD.read_text())
    for kernels in record.values():
        assert {"det float32 n=3", "det_backward float64 n=8"} <= set(kernels)
        assert {"det float32 n=256", "det_backward complex128 n=119"} <= set(kernels)
        for one in kernels.values():
            assert one["clocks"] > 0
            assert set(one) == {"kernel", "registers", "instructions", "clocks"}


# ---- what nvcc has compiled is kept

FAKE_NVCC = """#!/bin/sh
case "$1" in --version) echo "Cuda compilation tools, release 1.0, V1.0.1"; exit;; esac
while [ $# -gt 0 ]; do case "$1" in
  -o) object=$2;; -MF) dependencies=$2;; --keep-dir) folder=$2;; *.cu) source=$1;; esac; shift; done
[ "$(head -c 5 "$source")" != wrong ] || { echo "an error" >&2; exit 1; }
echo object >"$object"; echo code >"$folder/float.cubin"
echo "$object: $source $(dirname "$source")/kernels.h /usr/include/math.h" >"$dependencies"
echo "ptxas info    : Compiling entry function 'k' for 'sm_90'" >&2
echo "    0 bytes stack frame, 0 bytes spill stores, 8 bytes spill loads" >&2
echo "ptxas info    : Used 40 registers, 16 bytes smem" >&2
echo compiled >>"$(dirname "$object")/calls"
"""


@pytest.mark.skipif(os.name != "posix", reason="a shell script stands for nvcc")
def test_only_what_has_changed_is_compiled(tmp_path, monkeypatch):
    folder = tmp_path / "csrc/cuda/warp"
    folder.mkdir(parents=True)
    source, header, nvcc = folder / "float.cu", folder / "kernels.h", tmp_path / "nvcc"
    source.write_text("source")
    header.write_text("header")
    nvcc.write_text(FAKE_NVCC)
    nvcc.chmod(nvcc.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(cuda_objects, "ROOT", tmp_path)
    monkeypatch.setattr(cuda_objects, "FOLDER", tmp_path / "build")
    monkeypatch.setattr(cuda_objects, "compiler", lambda: "1.0")

    def compilations() -> int:
        (unit,) = list(cuda_objects.bring_up_to_date(cuda_objects.units(["sm_90"])))
        assert unit.kernels() == [cuda_objects.Kernel("k", "sm_90", 40, 16, 0, 8)]
        assert unit.path("cubin") == tmp_path / "build/sm_90/warp_float.cubin"
        assert unit.path("cubin").read_text() == "code\n"
        return len((tmp_path / "build/sm_90/calls").read_text().splitlines())

    assert compilations() == compilations() == 1
    header.touch()
    assert compilations() == 1
    header.write_text("another")
    assert compilations() == 2
    monkeypatch.setattr(cuda_objects, "compiler", lambda: "2.0")
    assert compilations() == 3
    source.write_text("wrong")
    for _ in range(2):  # what could not be compiled is not current the next time
        with pytest.raises(cuda_objects.CompilationError, match="an error"):
            compilations()


def test_kernels_have_the_names_of_the_source():
    names = [
        "_ZN8torchdet4cuda10run_kernelINS0_16WarpDeterminantsINS0_7ComplexIdEELi8EEEEEvNS_7ProblemE"
    ]
    assert cuda_objects.readable(names) == ["WarpDeterminants<Complex<double>, 8>"]
