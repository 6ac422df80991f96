"""From a kernel's machine code to a prediction of its time, and the record of predictions."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tools.cuda_objects import Kernel, Unit, bring_up_to_date, compiler, readable, units

from .disassembly import Code, SassError, disassemble
from .execution import Case, execute
from .launches import DTYPES, LU, OPERATORS, largest_order
from .memory import LANES
from .simulator import blocks_at_once, simulate, trace_of

ARCHITECTURE = "sm_90"
CLASSES = ("thread", "warp", "block", "cluster", "lu")
# What is predicted beside the largest order of every kernel.
ORDERS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32, 33, 40, 48, 56, 64, 65, 96, 192)
# Of clusters of 2, 4 and 8 blocks; those of 8 take a minute. All have the same source.
CLUSTER_ORDERS = {"float32": (288, 384, 512), "float64": (208,)}
LU_ORDERS = {"float32": (256, 288, 384, 512)}
FEW_ORDERS = (3, 8, 16, 32, 48)  # of complex matrices, and of second derivatives
# What an H200 has, and reaches in a copy.
MULTIPROCESSORS, CLOCK, COPY = 132, 1.98e9, 4.244e12
# Measured time over the model's, on an H200: means over kernels of the class warp of commit 0d26ca4
# (9, 3, 8 and 3 orders), from whose own machine code the model predicted. Complex kernels take the
# factor of their parts, second derivatives that of gradients. The class block has one factor: the
# mean over 30 times of that commit, of both operators and all dtypes.
CALIBRATION = {
    ("det", "float32"): 1.10,
    ("det", "float64"): 1.21,
    ("det_backward", "float32"): 1.20,
    ("det_backward", "float64"): 1.29,
}
BLOCK_CALIBRATION = 1.15
PARTS = {"complex64": "float32", "complex128": "float64"}
NUMBER_BYTES = {"float32": 4, "float64": 8, "complex64": 8, "complex128": 16}

# A kernel is slower where the model's clocks rise by more.
TOLERANCE = 0.05


class Prediction(NamedTuple):
    """What the model says of one kernel at one order. Numbers are per matrix."""

    case: Case
    kernel: str
    registers: int
    blocks: int  # on an SM at a time
    instructions: float
    by_pipe: dict[str, float]  # instructions
    clocks: float  # of an SM; of all SMs that a cluster has, added
    busiest: str  # what is used most: a pipe, the issue slots or the memory
    use: float  # of that, from 0 to 1

    @property
    def picoseconds(self) -> float:
        """Of the whole GPU, after calibration."""
        part = PARTS.get(self.case.dtype, self.case.dtype)
        is_block = self.kernel.startswith(("Block", "Cluster"))
        op = "det" if self.case.op == "det" else "det_backward"
        factor = BLOCK_CALIBRATION if is_block else CALIBRATION[op, part]
        return self.clocks * factor / MULTIPROCESSORS / CLOCK * 1e12

    @property
    def share_of_copy(self) -> float:
        """The time in which a copy would read and write as many bytes, relative to the kernel's."""
        entries = self.case.n**2
        kinds = {"det": entries + 1, "det_backward": 2 * entries + 1, LU: 2 * entries}
        numbers = kinds.get(self.case.op, 3 * entries)
        return numbers * NUMBER_BYTES[self.case.dtype] / COPY / (self.picoseconds * 1e-12)

    @property
    def record(self) -> dict[str, object]:
        """What the record has of it."""
        return {
            "kernel": self.kernel,
            "registers": self.registers,
            "instructions": round(self.instructions, 1),
            "clocks": round(self.clocks, 1),
        }


def cases() -> list[Case]:
    """Orders of each kernel that serves determinants, their gradients or second derivatives."""
    found = []
    for op in OPERATORS:
        for dtype in DTYPES:
            largest = largest_order(op, dtype)
            last = {Case(op, dtype, n).launch().kernel: n for n in range(1, largest + 1)}
            is_rare = dtype.startswith("complex") or op.endswith("hvp")
            chosen = FEW_ORDERS if is_rare else ORDERS
            left_out = ("Cluster", "Thread") if dtype.startswith("complex") else ("Cluster",)
            orders = {n for kernel, n in last.items() if not kernel.startswith(left_out)}
            orders |= {n for n in chosen if n <= max(orders)}
            orders |= {n for n in CLUSTER_ORDERS.get(dtype, ()) if n <= largest}
            found += [Case(op, dtype, n) for n in sorted(orders)]
    return found + [Case(LU, dtype, n) for dtype, orders in LU_ORDERS.items() for n in orders]


def predict_kernel(wanted: Sequence[Case], unit: Unit, kernel: Kernel) -> list[Prediction]:
    """Of a kernel in a unit that is compiled, at the orders that it serves.

    Raises:
        SassError: The model does not know its code.
    """
    code = disassemble(unit.path("cubin"), [kernel.name])[kernel.name]
    predictions = []
    for case in wanted:
        try:
            predictions.append(_predict(case, unit, kernel, code))
        except SassError as error:
            raise SassError(f"{case.name} ({case.launch().kernel}): {error}") from error
    return predictions


def _predict(case: Case, unit: Unit, kernel: Kernel, code: Code) -> Prediction:
    how = case.launch()
    steps = execute(case, how, unit.path("cubin"), code, kernel.shared)
    traces = [trace_of(code, of_warp) for of_warp in steps]
    blocks = blocks_at_once(how.threads, kernel.registers, how.shared_bytes + kernel.shared)
    warps = how.threads // LANES * how.cluster_size
    timing = simulate(traces * (warps // len(traces)), blocks, how.cluster_size)
    matrices = how.matrices_per_block
    busiest = max(timing.pipe_clocks, key=lambda pipe: timing.pipe_clocks[pipe])
    return Prediction(
        case,
        how.kernel,
        kernel.registers,
        blocks,
        sum(timing.instructions.values()) / matrices,
        {pipe: count / matrices for pipe, count in timing.instructions.items()},
        timing.clocks * how.cluster_size / matrices,
        busiest,
        timing.pipe_clocks[busiest] / timing.clocks,
    )


def compile_kernels(jobs: int | None = None) -> dict[str, tuple[Unit, Kernel]]:
    """Every kernel of the classes, by its name in the source."""
    wanted = units([ARCHITECTURE], CLASSES)
    for _ in bring_up_to_date(wanted, jobs):
        pass
    found = [(unit, kernel) for unit in wanted for kernel in unit.kernels()]
    names = readable([kernel.name for _, kernel in found])
    return dict(zip(names, found, strict=True))


def predict_all(wanted: Sequence[Case], jobs: int | None = None) -> Iterator[Prediction]:
    """In any order.

    Raises:
        SassError: The model does not know a kernel's code; says which.
    """
    kernels = compile_kernels(jobs)
    by_kernel: dict[str, list[Case]] = {}
    for case in wanted:
        by_kernel.setdefault(case.launch().kernel, []).append(case)
    for name, served in by_kernel.items():
        if name not in kernels:
            raise SassError(f"{served[0].name} is served by {name}, which no unit of the classes "
                            f"{' and '.join(CLASSES)} has")  # fmt: skip
    # Kernels of the largest matrices take longest: they begin first.
    in_order = sorted(by_kernel, key=lambda name: by_kernel[name][-1].n, reverse=True)
    with concurrent.futures.ProcessPoolExecutor(jobs) as pool:
        tasks = [pool.submit(predict_kernel, by_kernel[name], *kernels[name]) for name in in_order]
        try:
            for task in concurrent.futures.as_completed(tasks):
                yield from task.result()
        finally:
            pool.shutdown(cancel_futures=True)


Record = dict[str, dict[str, object]]  # by case


class Comparison(NamedTuple):
    """A prediction beside the recorded one."""

    prediction: Prediction
    recorded: float | None  # clocks

    @property
    def change(self) -> float:
        """Relative to the record; 0 without one."""
        return self.prediction.clocks / self.recorded - 1 if self.recorded else 0.0

    @property
    def verdict(self) -> str:
        """Empty where all is as recorded."""
        if self.recorded is None:
            return "NOT RECORDED"
        if abs(self.change) <= TOLERANCE:
            return ""
        return "SLOWER" if self.change > 0 else "faster: record anew"


def compare(recorded: Record, predictions: Sequence[Prediction]) -> list[Comparison]:
    """Every prediction beside the recorded one."""
    return [
        Comparison(one, recorded[one.case.name]["clocks"] if one.case.name in recorded else None)
        for one in predictions
    ]


def toolchain() -> str:
    """What the record depends on beside the sources."""
    release = next(line for line in compiler().splitlines() if "release" in line)
    return f"{release.split(',')[1].strip().replace('release', 'nvcc')}, {ARCHITECTURE}"
