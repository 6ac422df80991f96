"""What each step of a program does, with the functions of torchdet or of the reference."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from . import composed, reference, transforms

Step = dict[str, Any]
Values = list[tuple[str, Tensor]]


class HookError(Exception):
    """What a hook raises, once."""


MOST_NUMBERS = 1 << 20  # of a Jacobian, which is computed by all directions at once


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
        # Where gradients are batched, hooks see all of them in one, which no record can hold.
        self.records_hooks = True
        self.pulls: list[Callable[[], Tensor]] = []
        # Of tensors on a CPU save_on_cpu makes no copy, and behind such hooks torch does not see
        # that one has changed: no function can be right then.
        self.may_change = True

    def function(self, name: str) -> Callable[[Tensor], Any]:
        if name in composed.NAMES:
            return composed.function(name, self.is_reference, self.narrow)
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
            # A Function may return no view that is changed in place later.
            clone = step["function"] == "adjugate"
            g = (lambda a: f(a).clone()) if clone else f
            out = checkpoint(g, of, use_reentrant=under.endswith("reentrant"))
        elif under == "save_on_cpu":
            self.may_change = False
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
        if isinstance(out, tuple):
            sign, log = out
            return [("sign" if sign.is_complex() else "y", sign), ("y", log)]
        return [(kind, out)]

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
        self.records_hooks = not step["batched"]
        try:
            return self._grad(step, of, wrt)
        finally:
            self.records_hooks = True

    def _grad(self, step: Step, of: Tensor, wrt: Tensor) -> Values:
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
        if of.numel() ** (1 + step["chain"].count("jacfwd")) > MOST_NUMBERS:
            raise Skip
        f = transforms.scalar(self.function(step["function"]), step["seed"], self.narrow)
        return [("y", transforms.chain(step["chain"], f, step["seed"], self.narrow)(of))]

    def do_vjp(self, step: Step, of: Tensor) -> Values:
        f = self.function(step["function"])
        value, pull = transforms.pulling(f, of, step["seed"], self.narrow)
        if step["late"]:
            self.pulls.append((pull, of, of._version))
            return [("y", value)]
        return [("y", value), ("M", pull())]

    def do_pull(self, step: Step) -> Values:
        """Call what torch.func.vjp has returned in an earlier step."""
        if not self.pulls:
            raise Skip
        pull, of, version = self.pulls[step["of"] % len(self.pulls)]
        if of._version != version:
            raise Skip  # torch.func does not see a change in place, of its own functions neither
        return [("M", pull())]

    def do_dual(self, step: Step, of: Tensor) -> Values:
        out = transforms.dual(self.function(step["function"]), of, step["seed"], self.narrow)
        kind = "M" if step["function"] in ("cofactor", "adjugate") else "y"
        return [(kind, x) for x in out]

    def do_jacobian(self, step: Step, of: Tensor) -> Values:
        if step["hessian"] and of.is_complex():
            raise Skip  # functional.hessian takes real functions only
        f = self.function(step["function"])
        return [("y", x) for x in transforms.jacobian(f, of, step, self.narrow)]

    def do_threads(self, step: Step, of: Tensor, wrt: Tensor) -> Values:
        """Several threads on one graph, which stays.

        A thread that frees a graph while another one runs through it crashes torch 2.13 with any
        Function written in Python: its saved tensors go while they are read.
        """
        cotangent = self.seeded(1, of)
        results: list[Tensor] = []
        errors: list[Exception] = []

        def one() -> None:
            barrier.wait()
            try:
                (g,) = torch.autograd.grad(of, wrt, cotangent, True, allow_unused=True)
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

        if not self.may_change:
            return []
        if step["guard"] == "no_grad":
            with torch.no_grad():
                change(on)
        else:
            change(on.detach() if step["guard"] == "detach" else on)
        return []

    def do_hook(self, step: Step, on: Tensor, of: Tensor, wrt: Tensor) -> Values:
        action = self._action(step["action"], of, wrt)
        scale = step["action"] == "scale"

        def hook(g: Tensor | None) -> Tensor | None:
            if g is None:  # torch calls hooks of an output that has no part in the result
                return None
            if step["action"] == "record" and self.records_hooks:
                self.records.append(g.detach().clone())
            action()
            return 2 * g if scale else None

        on.register_hook(hook)
        return []

    def do_node_hook(self, step: Step, on: Tensor, of: Tensor, wrt: Tensor) -> Values:
        action = self._action(step["action"], of, wrt)

        def hook(inputs: Any, outputs: Any) -> None:
            if step["action"] == "record" and self.records_hooks:
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
            if action == "inner_grad" and not running and self.records_hooks:
                running.append(True)
                try:
                    (g,) = torch.autograd.grad(
                        of, wrt, self.seeded(5, of), retain_graph=True, allow_unused=True
                    )
                finally:
                    running.pop()
                self.records.append(torch.zeros_like(wrt) if g is None else g.detach().clone())

        return act
