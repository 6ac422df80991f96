"""Runs a program twice, step by step: on torchdet and on the reference.

The reference never frees a graph, so it always has the right answer. torchdet may raise where the
program has freed a graph or changed a saved tensor in place; an answer that it gives must be right.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import torchdet

from . import reference
from .judge import Wrong
from .machine import HookError, Machine, Skip, Step, Values

# Rounding in units of n eps of the largest number of the program. Matrices of condition below 10
# in at most four derivatives and a handful of operations lose less.
TOLERANCE = 2000.0


class Comparison:
    """The two machines, in step."""

    def __init__(self, case: dict[str, Any]) -> None:
        self.case = case
        narrow = getattr(torch, case["dtype"])
        wide = torch.complex128 if narrow.is_complex else torch.float64
        self.subject = Machine(case, torchdet, narrow)
        self.reference = Machine(case, reference, wide)
        self.size = 1.0  # the largest number so far
        self.eps = torch.finfo(narrow).eps
        self.freed = self.changed = False
        self.shared_nodes: set[int] = set()  # values whose node has a second output

    def run(self) -> str:
        """Run the program; how it ended. Wrong where the machines differ."""
        done = 0
        for position, step in enumerate(self.case["steps"]):
            try:
                chosen = self._choose(step)
            except Skip:
                continue
            where = f"step {position} ({step['do']})"
            if end := self._one(step, chosen, where):
                return f"{end} at {where}"
            done += 1
        return f"{done} steps"

    def _choose(self, step: Step) -> dict[str, int]:
        pairs = list(zip(self.subject.values, self.reference.values, strict=True))

        def among(key: str, accepts: Callable[[int, str, Tensor], bool]) -> int:
            found = [
                i
                for i, ((kind, x), (_, y)) in enumerate(pairs)
                if accepts(i, kind, x) and accepts(i, kind, y)
            ]
            if not found:
                raise Skip
            if key == "wrt":  # the first matrix more often than what was made of it
                found = [found[0], *found]
            return found[step[key] % len(found)]

        def recorded(i: int, kind: str, x: Tensor) -> bool:
            return x.requires_grad

        def is_leaf(i: int, kind: str, x: Tensor) -> bool:
            return x.requires_grad and x.is_leaf

        def made(i: int, kind: str, x: Tensor) -> bool:
            return x.grad_fn is not None

        def has_node(i: int, kind: str, x: Tensor) -> bool:
            return x.grad_fn is not None and i not in self.shared_nodes

        def is_variable(i: int, kind: str, x: Tensor) -> bool:
            # The derivatives of a sign may be written by the sign, as torch.linalg does, or by the
            # matrix. So they may depend on the sign as a variable, whose hooks run then.
            return recorded(i, kind, x) and kind != "sign"

        def inner_variable(i: int, kind: str, x: Tensor) -> bool:
            # What leads to one output of a node runs for the other one, too.
            return is_variable(i, kind, x) and i not in self.shared_nodes

        def any_value(i: int, kind: str, x: Tensor) -> bool:
            return not (kind == "A" and step["how"] == "zero")

        def of_kind(*kinds: str) -> Callable[[int, str, Tensor], bool]:
            return lambda i, kind, x: kind in kinds

        matrix = of_kind("A", "M")
        rules: dict[str, dict[str, Callable[[int, str, Tensor], bool]]] = {
            "leaf": {},
            "pull": {},
            "nudge": {"of": of_kind("A"), "by": matrix},
            "dot": {"of": matrix, "by": matrix},
            "times": {"of": of_kind("y", "sign"), "by": matrix},
            "take_grad": {"of": is_leaf},
            "grad": {"of": made, "wrt": is_variable},
            "backward": {"of": made},
            "inplace": {"on": any_value},
            "hook": {"on": is_variable, "of": made, "wrt": inner_variable},
            "node_hook": {"on": has_node, "of": made, "wrt": inner_variable},
            "threads": {"of": made, "wrt": is_variable},
        }
        if step["do"] == "backward" and step["inputs"] is not None:
            rules["backward"]["inputs"] = is_leaf
        accepted = rules.get(step["do"], {"of": of_kind("A")})
        return {key: among(key, accepts) for key, accepts in accepted.items()}

    def _one(self, step: Step, chosen: dict[str, int], where: str) -> str:
        frees = step["do"] in ("grad", "backward")
        if frees:
            keeps = step["create_graph"] if step["retain"] is None else step["retain"]
            self.freed |= not keeps
        self.changed |= step["do"] == "inplace"
        recorded = [len(m.records) for m in (self.subject, self.reference)]
        got, error = self._attempt(self.subject, step, chosen)
        want, reference_error = self._attempt(self.reference, step, chosen)
        if error is not None or reference_error is not None:
            for m, count in zip((self.subject, self.reference), recorded, strict=True):
                del m.records[count:]
            self.freed |= frees
            if error is not None and reference_error is None and not self._may_raise(error):
                text = f"{type(error).__name__}: {error}"
                raise Wrong(f"{where}: raised only by torchdet: {text}") from error
            if isinstance(reference_error, Skip) and isinstance(error, Skip):
                return ""
            if step["do"] in ("backward", "inplace"):
                return "both raise" if error and reference_error else "one raises"
            return "reference raises" if error is None else ""
        if step["do"] == "threads":
            for m, count in zip((self.subject, self.reference), recorded, strict=True):
                del m.records[count:]  # as many as threads came to the hook
            for _, x in got:
                self._compare(x, want[0][1], where)
            return ""
        if len(got) != len(want):
            raise Wrong(f"{where}: {len(got)} results, expected {len(want)}")
        first = len(self.subject.values)
        self.subject.values += got
        self.reference.values += want
        if len(got) == 2:
            self.shared_nodes |= {first, first + 1} if self.subject.dtype.is_complex else set()
        self._compare_all(where)
        return ""

    def _attempt(
        self, machine: Machine, step: Step, chosen: dict[str, int]
    ) -> tuple[Values, Exception | None]:
        try:
            return machine.run(step, chosen), None
        except Exception as error:
            return [], error

    def _may_raise(self, error: Exception) -> bool:
        text = str(error)
        if isinstance(error, HookError):
            return True  # the reference's hook has raised at another time
        freed = "second time" in text or "already been freed" in text
        in_place = "inplace operation" in text or "in-place" in text
        return (self.freed and freed) or (self.changed and in_place)

    def _compare_all(self, where: str) -> None:
        for i, ((_, x), (_, y)) in enumerate(
            zip(self.subject.values, self.reference.values, strict=True)
        ):
            self._compare(x, y, f"{where}: value {i}")
            # Plain operations know more constants, as the cofactor of a 1 x 1 matrix is one.
            if y.requires_grad and not x.requires_grad:
                raise Wrong(f"{where}: value {i} is not part of the graph")
            if x.is_leaf and (x.grad is None) != (y.grad is None):
                raise Wrong(f"{where}: gradient of value {i} is there in one of the two only")
            if x.is_leaf and x.grad is not None:
                self._compare(x.grad, y.grad, f"{where}: gradient of value {i}")
        a, b = self.subject.records, self.reference.records
        if len(a) != len(b):
            raise Wrong(f"{where}: hooks recorded {len(a)} tensors, expected {len(b)}")
        for i, (x, y) in enumerate(zip(a, b, strict=True)):
            self._compare(x, y, f"{where}: record {i} of hooks")

    def _compare(self, x: Tensor, y: Tensor, what: str) -> None:
        x, y = x.detach(), y.detach()
        if x.shape != y.shape:
            raise Wrong(f"{what}: shape {tuple(x.shape)}, expected {tuple(y.shape)}")
        if y.is_complex() != x.is_complex():
            raise Wrong(f"{what}: dtype {x.dtype}, expected {y.dtype}")
        if x.numel() == 0:
            return
        x = x.to(y.dtype)
        nan = y.isnan()
        finite = y[~nan].abs()
        self.size = max(self.size, float(finite[finite.isfinite()].norm().clamp(max=1e30)))
        allowed = TOLERANCE * max(self.case["n"], 1) * self.eps * self.size
        difference = (x - y).abs().masked_fill(nan & x.isnan(), 0).masked_fill(x == y, 0)
        if not bool((difference <= allowed).all()):
            worst = float(difference.nan_to_num(nan=math.inf).max())
            raise Wrong(
                f"{what}: wrong by {worst:.3g} (allowed {allowed:.3g}); expected "
                f"{_shown(y)}, got {_shown(x)}"
            )


def _shown(x: Tensor) -> str:
    text = str(x.tolist())
    return text if len(text) < 200 else text[:200] + " .."


def run(case: dict[str, Any]) -> str:
    """Run a program; Wrong where torchdet and the reference differ."""
    return Comparison(case).run()
