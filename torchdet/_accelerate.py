"""accelerate: torch's determinants run on torchdet, in code that does not know about it."""

import functools
import inspect
import types
from collections.abc import Callable, Generator
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ._reference import check_square
from ._torch_modes import asks, call_within, call_without, has_hooks
from .linalg import LinalgSlogdet, det, logdet, slogdet

P = ParamSpec("P")
R = TypeVar("R")
# What a mode does with a call: it is given itself and what torch gives to __torch_function__.
Serve = Callable[["accelerate", Any, Any, Any, Any], Any]


class accelerate(TorchFunctionMode):
    r"""Context manager and decorator: torch's determinants run on torchdet.

    Inside of it torch.det, torch.linalg.det, torch.slogdet, torch.linalg.slogdet, torch.logdet and
    the methods det, slogdet and logdet of Tensors run on `det`, `slogdet` and `logdet` of torchdet,
    also in code that does not know about torchdet.

    Args:
        enable: False switches an outer `accelerate` off.

    Returns:
        Of a call inside: what torch returns, of the same shape, dtype, device and named tuple.

    Scope:
        The thread that enters it, to any depth; one object may be entered often, and by several
        threads. Other modes see each call in their turn. A generator function or a coroutine
        function that is decorated runs inside step by step; a `with` block should not hold a yield
        or an await, since other code runs meanwhile.

    Gradient, accuracy, singular matrices:
        Those of torchdet's functions, also where a backward pass runs after the context was left.
        What torch.utils.checkpoint runs must be decorated, or both passes called inside (torch 2.13
        or newer); a gradient that would mix the two raises torch's CheckpointError.

    Compilers:
        torch.compile, torch.export, make_fx and torch.jit.trace see torchdet's operators. A
        function that is compiled outside is compiled again inside.

    Not served:
        torch.ops.aten, torch.jit.script, C++, and programs that were exported or traced outside; in
        compiled code subclasses of Tensor, torch.compiler.nested_compile_region and scan.

    Cost:
        Other functions of torch take about 1 microsecond more inside; those that are written in
        Python, as most of torch.nn.functional, 2 to 4; a backward pass 20 to 30.

    Raises:
        TypeError: What is decorated is a class, an async generator function or not callable. Calls
            inside raise what torch raises: arguments that torchdet refuses are given to torch,
            which takes them or raises its own error.

    Example:
        >>> A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)  # singular
        >>> with torchdet.accelerate():
        ...     d = torch.linalg.det(A)
        >>> d.backward()
        >>> A.grad
        tensor([[ 4., -2.],
                [-2.,  1.]])
    """

    def __init__(self, *, enable: bool = True) -> None:
        self._enable = enable

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        serve = _SERVED.get(func)
        if serve is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        serve = serve if self._enable else call_without
        return serve(self, func, types, args, kwargs or {})

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Decorate a function, a method, a generator function or a coroutine function."""
        # What runs is the function, or __call__ of an object's class.
        runs = function, getattr(type(function), "__call__", None)  # noqa: B004
        refused = inspect.isclass(function) or any(map(inspect.isasyncgenfunction, runs))
        if refused or not callable(function):
            raise TypeError(
                "accelerate: expected a function, a generator function or a coroutine function, "
                f"got {function!r}; decorate its methods, or write `with accelerate():` inside"
            )
        wrapper: Callable[..., Any]
        if any(map(inspect.isgeneratorfunction, runs)):

            def generate(*args: Any, **kwargs: Any) -> Any:
                return (yield from self._step_by_step(function(*args, **kwargs)))

            wrapper = generate
        elif any(map(inspect.iscoroutinefunction, runs)):
            step_by_step = types.coroutine(self._step_by_step)

            async def run(*args: Any, **kwargs: Any) -> Any:
                return await step_by_step(function(*args, **kwargs))

            wrapper = run
        else:
            wrapper = self._around(function)
        return cast(Callable[P, R], functools.wraps(function)(wrapper))

    def _around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with self:
                return function(*args, **kwargs)

        return wrapper

    def _step_by_step(self, inner: Any) -> Generator[Any, Any, Any]:
        # Between two steps of a generator or a coroutine other code of this thread runs.
        step, value = inner.send, None
        while True:
            try:
                with self:
                    request = step(value)
            except StopIteration as end:
                return end.value
            try:
                step, value = inner.send, (yield request)
            except GeneratorExit:
                with self:
                    inner.close()
                raise
            except BaseException as error:
                step, value = inner.throw, error


def _on(function: Callable[..., Any], named: Any = None, named_out: Any = None) -> Serve:
    """Serve a determinant; torch has two named tuples, one of them for out."""

    def serve(mode: accelerate, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        # torch names it A or input, and takes NumPy's names for input as well.
        (A,) = args or [x for name, x in kwargs.items() if name != "out"]
        out = kwargs.get("out")
        if types and asks(type(A)):
            # It knows torch's functions, not torchdet's. What it calls is served in its turn.
            with mode:
                return A.__torch_function__(func, types, args, kwargs)
        if out is not None and torch.compiler.is_compiling():
            return func(*args, **kwargs)  # torchdet checks out in ways that are not traceable
        try:
            if out is not None:
                result = function(A, out=out)
            else:
                result = function(_marked(A) if has_hooks() else A)
        except (NotImplementedError, TypeError):
            pass  # a subclass, a mode or a device that does not know torchdet's operators
        except RuntimeError:
            if out is None and not _is_refused(A):
                raise
        else:
            if named is None or not isinstance(result, LinalgSlogdet):
                return result
            return named(result) if out is None else named_out(result)
        return func(*args, **kwargs)

    return serve


def _is_refused(A: Tensor) -> bool:
    """Whether torchdet need not take A, so that torch has the last word."""
    try:
        check_square("accelerate", A)
    except (RuntimeError, TypeError):
        return True
    return type(A).__torch_dispatch__ is not Tensor.__torch_dispatch__


def _runs(*places: int) -> Serve:
    """Serve one of torch's functions that runs those it is given at these places."""

    def serve(mode: accelerate, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        # torch.compile lets them enter a mode if it has seen one being entered before.
        with mode:
            pass
        given = [
            # A GraphModule has been traced already.
            mode._around(x) if i in places and not isinstance(x, torch.fx.GraphModule) else x
            for i, x in enumerate(args)
        ]
        return func(*given, **kwargs)

    return serve


def _marked(A: Tensor) -> Tensor:
    # A by an operation that saves a bool. A checkpoint compares shapes and dtypes of what its two
    # passes save. Where accelerate serves one of them only, torch finds a matrix in place of the
    # bool, and raises. Else the shapes might agree, and torchdet's backward pass be given tensors
    # that torch's determinant has saved.
    return A.masked_fill(A.new_zeros((), dtype=torch.bool), 0)


_tuples: Any = torch.return_types  # torch's type stubs know only some of them
_slogdet = _on(slogdet, _tuples.slogdet, _tuples.slogdet_out)
# What torchdet serves; and the functions of torch that run code of the caller, such as hooks.
_SERVED: dict[Callable[..., Any], Serve] = {
    torch.det: _on(det),
    torch.linalg.det: _on(det),
    Tensor.det: _on(det),
    torch.logdet: _on(logdet),
    Tensor.logdet: _on(logdet),
    torch.slogdet: _slogdet,
    Tensor.slogdet: _slogdet,
    torch.linalg.slogdet: _on(slogdet, _tuples.linalg_slogdet, _tuples.linalg_slogdet_out),
    torch.autograd.grad: call_within,
    torch.autograd.backward: call_within,
    Tensor.backward: call_within,
    # torch.compile asks for one of these two, by version; eager code for none of them.
    torch.utils.checkpoint.checkpoint: _runs(0),
    torch.ops.higher_order.tag_activation_checkpoint: _runs(0),
    torch.ops.higher_order.cond: _runs(1, 2),
    torch.ops.higher_order.while_loop: _runs(0, 1),
    torch.ops.higher_order.map_impl: _runs(0),
}
