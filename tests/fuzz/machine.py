"""Runs a program twice, step by step: on torchdet and on the reference.

The reference never frees a graph, so it always has the right answer. torchdet may raise where the
program has freed a graph or changed a saved tensor in place; an answer that it gives must be right.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import torchdet

from . import reference, transforms
from .judge import Wrong

# Rounding in units of n eps of the largest number of the program. Matrices of condition below 10
# in at most four derivatives and a handful of operations lose less.
TOLERANCE = 2000.0
Step = dict[str, Any]
Values = list[tuple[str, Tensor]]


class HookError(Exception):
    """What a hook raises, once."""


class Skip(Exception):
    """The step has no value to work on."""


class Machine:
    """One of the two: the functions, the values, and what hooks have recorded."""

    def __init__(self, case: dict[str, Any], functions: Any, dtype: torch.dtype) -> None:
        self.case, self.functions, self.dtype = case, functions, dtype
        self.narrow = getattr(torch, case["dtype"])
        self.is_reference = functions is reference
        self.values: Values = []
        self.records: list[Tensor] = []

    def function(self, name: str) -> Callable[[Tensor], Any]:
        if name == "det" and self.case["singular"] and self.is_reference:
            name = "polynomial_det"
        f = getattr(self.functions, name)
        return (lambda a: tuple(f(a))) if name == "slogdet" else f

    def seeded(self, seed: int, x: Tensor, *more: int) -> Tensor:
        return transforms.seeded(seed, (*more, *x.shape), x.dtype, self.narrow)

    def run(self, step: Step, chosen: dict[str, int]) -> Values:
        """The values that a step makes."""
        values = {key: self.values[i][1] for key, i in chosen.items()}
        return getattr(self, "do_" + step["do"])(step, **values)

    def keep(self, step: Step) -> bool | None:
        return True if self.is_reference else step["retain"]

    # ---- values

    def do_leaf(self, step: Step) -> Values:
        n, rng = self.case["n"], np.random.default_rng(step["seed"])
        shape = (*self.case["batch"], n, n)
        imaginary = 1j if self.dtype.is_complex else 0
        if self.case["singular"]:
            X = rng.integers(-1, 2, shape) + imaginary * rng.integers(-1, 2, shape)
            X = X * 0.5 if n > 4 else X * 1.0
            X[..., 0, :] = X[..., -1, :] if n > 1 else 0
            if n > 3 and step["seed"] % 3 == 0:
                X[..., 1, :] = X[..., 2, :]
        else:
            X = rng.standard_normal(shape) + imaginary * rng.standard_normal(shape)
            X = np.linalg.qr(X)[0] + 0.05 * X / n
        A = torch.from_numpy(np.asarray(X)).to(self.narrow).to(self.dtype)
        return [("A", A.requires_grad_(step["requires_grad"]))]

    def do_apply(self, step: Step, of: Tensor) -> Values:
        f, under = self.function(step["function"]), step["under"]
        if under == "no_grad":
            with torch.no_grad():
                out = f(of)
        elif under.startswith("checkpoint"):
            out = checkpoint(f, of, use_reentrant=under.endswith("reentrant"))
        elif under == "save_on_cpu":
            with torch.autograd.graph.save_on_cpu():
                out = f(of)
        elif under == "pack_clone":
            with torch.autograd.graph.saved_tensors_hooks(lambda x: x.clone(), lambda x: x):
                out = f(of)
        elif under == "vmap" and of.dim() > 2:
            out = torch.vmap(f)(of)
        else:
            out = f(of)
        kind = "M" if step["function"] in ("cofactor", "adjugate") else "y"
        return [(kind, x) for x in (out if isinstance(out, tuple) else (out,))]

    def do_scale(self, step: Step, of: Tensor) -> Values:
        return [("A", of * step["by"])]

    def do_transpose(self, step: Step, of: Tensor) -> Values:
        return [("A", of.mT)]

    def do_nudge(self, step: Step, of: Tensor, by: Tensor) -> Values:
        bounded = by / (1 + (by * by.conj()).real)
        return [("A", of + 0.1 / self.case["n"] * bounded)]

    def do_dot(self, step: Step, of: Tensor, by: Tensor) -> Values:
        return [("y", (of * by).sum((-2, -1)))]

    def do_times(self, step: Step, of: Tensor, by: Tensor) -> Values:
        bounded = of / (1 + (of * of.conj()).real)
        return [("M", bounded[..., None, None] * by)]

    def do_take_grad(self, step: Step, of: Tensor) -> Values:
        if of.grad is None:
            raise Skip
        return [("M", of.grad)]

    # ---- derivatives

    def do_grad(self, step: Step, of: Tensor, wrt: Tensor) -> Values:
        options = {"create_graph": step["create_graph"], "retain_graph": self.keep(step)}
        if count := step["batched"]:
            cotangents = self.seeded(step["seed"], of, count)
            if self.is_reference:
                rows = [
                    torch.autograd.grad(of, wrt, c, True, step["create_graph"], allow_unused=True)[
                        0
                    ]
                    for c in cotangents
                ]
                g = None if rows[0] is None else torch.stack(rows)
            else:
                options |= {"is_grads_batched": True, "allow_unused": True}
                (g,) = torch.autograd.grad(of, wrt, cotangents, **options)
            g = None if g is None else g[0] - 0.5 * g[1]
        else:
            cotangent = self.seeded(step["seed"], of)
            (g,) = torch.autograd.grad(of, wrt, cotangent, allow_unused=True, **options)
        if g is None:
            g = torch.zeros_like(wrt)
        return [("M" if g.dim() >= 2 and g.shape[-1] == self.case["n"] else "y", g)]

    def do_backward(self, step: Step, of: Tensor, **inputs: Tensor) -> Values:
        of.backward(
            self.seeded(step["seed"], of),
            retain_graph=self.keep(step),
            create_graph=step["create_graph"],
            inputs=list(inputs.values()) or None,
        )
        return []

    def do_func(self, step: Step, of: Tensor) -> Values:
        f = transforms.scalar(self.function(step["function"]), step["seed"], self.narrow)
        return [("y", transforms.chain(step["chain"], f, step["seed"], self.narrow)(of))]

    def do_vjp(self, step: Step, of: Tensor) -> Values:
        f = self.function(step["function"])
        value, g = transforms.pulled(f, of, step["seed"], self.narrow)
        return [("y", value), ("M", g)]

    def do_dual(self, step: Step, of: Tensor) -> Values:
        out = transforms.dual(self.function(step["function"]), of, step["seed"], self.narrow)
        kind = "M" if step["function"] in ("cofactor", "adjugate") else "y"
        return [(kind, x) for x in out]

    def do_jacobian(self, step: Step, of: Tensor) -> Values:
        f = self.function(step["function"])
        return [("y", x) for x in transforms.jacobian(f, of, step, self.narrow)]

    def do_threads(self, step: Step, of: Tensor, wrt: Tensor) -> Values:
        """Several threads on one graph; each of them fails or has the right answer."""
        cotangent, retain = self.seeded(1, of), step["retain"] or self.is_reference
        results: list[Tensor] = []
        errors: list[Exception] = []

        def one() -> None:
            barrier.wait()
            try:
                (g,) = torch.autograd.grad(of, wrt, cotangent, retain, allow_unused=True)
                results.append(torch.zeros_like(wrt) if g is None else g)
            except Exception as error:
                errors.append(error)

        count = 1 if self.is_reference else step["count"]
        barrier = threading.Barrier(count)
        threads = [threading.Thread(target=one) for _ in range(count)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        for error in errors:
            if retain or not results or "second time" not in str(error):
                raise error
        return [("thread", x) for x in results]

    # ---- changes in place and hooks

    def do_inplace(self, step: Step, on: Tensor) -> Values:
        is_matrix = on.dim() >= 2 and on.shape[-1] == self.case["n"]

        def change(x: Tensor) -> None:
            if step["how"] == "mul":
                x.mul_(1.1)
            elif step["how"] == "neg":
                x.neg_()
            elif step["how"] == "zero":
                x.zero_()
            elif step["how"] == "entry" and is_matrix:
                x[..., 0, 0] += 0.1
            else:
                x.add_(self.seeded(3, x), alpha=0.1)

        if step["guard"] == "no_grad":
            with torch.no_grad():
                change(on)
        else:
            change(on.detach() if step["guard"] == "detach" else on)
        return []

    def do_hook(self, step: Step, on: Tensor, of: Tensor, wrt: Tensor) -> Values:
        action = self._action(step["action"], of, wrt)
        scale = step["action"] == "scale"

        def hook(g: Tensor) -> Tensor | None:
            if step["action"] == "record":
                self.records.append(g.detach().clone())
            action()
            return 2 * g if scale else None

        on.register_hook(hook)
        return []

    def do_node_hook(self, step: Step, on: Tensor, of: Tensor, wrt: Tensor) -> Values:
        action = self._action(step["action"], of, wrt)

        def hook(inputs: Any, outputs: Any) -> None:
            if step["action"] == "record":
                self.records += [g.detach().clone() for g in outputs if g is not None][:1]
            action()

        assert on.grad_fn is not None
        on.grad_fn.register_hook(hook)
        return []

    def _action(self, action: str, of: Tensor, wrt: Tensor) -> Callable[[], None]:
        fired: list[bool] = []
        running: list[bool] = []

        def act() -> None:
            if action == "raise_once" and not fired:
                fired.append(True)
                raise HookError("raised by a hook")
            if action == "inner_grad" and not running:
                running.append(True)
                try:
                    (g,) = torch.autograd.grad(
                        of, wrt, self.seeded(5, of), retain_graph=True, allow_unused=True
                    )
                finally:
                    running.pop()
                self.records.append(torch.zeros_like(wrt) if g is None else g.detach().clone())

        return act


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
            return found[step[key] % len(found)]

        def recorded(i: int, kind: str, x: Tensor) -> bool:
            return x.requires_grad

        def is_leaf(i: int, kind: str, x: Tensor) -> bool:
            return x.requires_grad and x.is_leaf

        def has_node(i: int, kind: str, x: Tensor) -> bool:
            return x.grad_fn is not None and i not in self.shared_nodes

        def any_value(i: int, kind: str, x: Tensor) -> bool:
            return not (kind == "A" and step["how"] == "zero")

        def of_kind(*kinds: str) -> Callable[[int, str, Tensor], bool]:
            return lambda i, kind, x: kind in kinds

        matrix = of_kind("A", "M")
        rules: dict[str, dict[str, Callable[[int, str, Tensor], bool]]] = {
            "leaf": {},
            "nudge": {"of": of_kind("A"), "by": matrix},
            "dot": {"of": matrix, "by": matrix},
            "times": {"of": of_kind("y"), "by": matrix},
            "take_grad": {"of": is_leaf},
            "grad": {"of": recorded, "wrt": recorded},
            "backward": {"of": recorded},
            "inplace": {"on": any_value},
            "hook": {"on": recorded, "of": recorded, "wrt": recorded},
            "node_hook": {"on": has_node, "of": recorded, "wrt": recorded},
            "threads": {"of": recorded, "wrt": recorded},
        }
        if step["do"] == "backward" and step["inputs"] is not None:
            rules["backward"]["inputs"] = is_leaf
        accepted = rules.get(step["do"], {"of": of_kind("A")})
        return {key: among(key, accepts) for key, accepts in accepted.items()}

    def _one(self, step: Step, chosen: dict[str, int], where: str) -> str:
        frees = step["do"] in ("grad", "backward", "threads")
        if frees and not (step["retain"] or step.get("create_graph")):
            self.freed = True
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
            return "threads" if not step["retain"] else ""
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
