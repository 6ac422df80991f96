"""Everything torchdet takes from torch that torch does not document, in one place.

Where a name only buys speed, a torch without it gets a slower, documented way. The one name that
results depend on is imported without a net: a torch without it fails here, not by wrong numbers.
"""

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Second forward-mode derivatives are silently zero without it (Operator.jvp of _function.py).
from torch.autograd.forward_ad import _set_fwd_grad_enabled as enable_forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = [
    "HAS_LEVELS",
    "Inductor",
    "Level",
    "at_bottom",
    "below_autograd",
    "below_levels",
    "enable_forward_ad",
    "handle_torch_function",
    "has_batched_gradients",
    "has_torch_function_unary",
    "inductor",
    "innermost_level",
    "is_recorded",
    "level_recorder",
    "make_dual",
    "record_all",
    "recorder",
    "register_autograd",
    "route",
    "tangents",
    "unwrap_if_dead",
    "without_tangent",
]


Route = Literal["kernel", "record", "levels", "operator"]


def without_tangent(x: Tensor) -> Tensor:
    """X without its tangent of the current forward-mode level, but with those of other levels."""
    return forward_ad.unpack_dual(x, level=0).primal


def make_dual(x: Tensor, tangent: Tensor) -> Tensor:
    """X with a tangent of the current forward-mode level."""
    return forward_ad.make_dual(x, tangent, level=0)


class Inductor(NamedTuple):
    """What an operator's code in torch.compile's inductor is made of."""

    ops: Any  # operations on numbers
    make_pointwise: Callable[..., Any]
    lowerings: dict[Any, Callable[..., Any]]
    register_lowering: Callable[..., Any]
    fallback_handler: Callable[..., Any]
    reassociates: Callable[[], bool]  # whether the C++ compiler may
    is_stored: Callable[[Any], bool]  # whether a Tensor of the program lies in memory anyhow


def inductor() -> Inductor | None:
    """None where inductor is not loaded or lacks a name: then compiled code calls the operators."""
    if "torch._inductor.lowering" not in sys.modules:
        return None
    try:
        from torch._inductor import config
        from torch._inductor.ir import is_storage_and_layout
        from torch._inductor.lowering import (
            fallback_handler,
            lowerings,
            make_pointwise,
            register_lowering,
        )
        from torch._inductor.ops_handler import OpsHandler
        from torch._inductor.virtualized import ops

        assert callable(OpsHandler.fma)
        assert callable(OpsHandler.to_dtype_bitcast)
        assert isinstance(config.cpp.enable_unsafe_math_opt_flag, bool)
    except (ImportError, AttributeError, AssertionError):
        return None
    return Inductor(
        ops,
        make_pointwise,
        lowerings,
        register_lowering,
        fallback_handler,
        lambda: config.cpp.enable_unsafe_math_opt_flag,
        is_storage_and_layout,
    )


try:
    from torch._C import (
        DispatchKey,
        _any_requires_grad,
        _are_functorch_transforms_active,
        _dispatch_tls_is_dispatch_key_excluded,
        _is_fwd_grad_enabled,
        _is_tracing,
        _set_fwd_grad_enabled,
        _set_grad_enabled,
    )
    from torch._C import _AutoDispatchBelowAutograd as _BelowAutograd
    from torch._C import _DisableFuncTorch as below_levels
    from torch._C._functorch import (
        CGradInterpreterPtr,
        CInterpreter,
        CJvpInterpreterPtr,
        CVmapInterpreterPtr,
        TransformType,
        _add_batch_dim,
        _unwrap_batched,
        _unwrap_for_grad,
        _wrap_for_grad,
        get_single_level_autograd_function_allowed,
        get_unwrapped,
        is_functorch_wrapped_tensor,
        is_legacy_batchedtensor,
        peek_interpreter_stack,
        pop_dynamic_layer_stack,
        push_dynamic_layer_stack,
        set_single_level_autograd_function_allowed,
        unwrap_if_dead,
    )
    from torch._functorch import eager_transforms
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd.function import _SingleLevelFunction

    # Of Function, which a Function of one level lacks, but compiled autograd asks of it.
    _compiled_autograd_key: Any = torch.autograd.Function._compiled_autograd_key
    assert isinstance(eager_transforms.JVP_NESTING, int)
    assert isinstance(forward_ad._current_level, int)
except (ImportError, AttributeError, AssertionError):
    HAS_LEVELS = False

    def route(args: Sequence[Tensor]) -> Route:
        """Who looks at a call decides what is called; torch does not tell, but for its tracer."""
        return "operator" if torch.jit.is_tracing() else "record"  # type: ignore[attr-defined]

    def recorder(cls: Any) -> Callable[[Sequence[Tensor]], Any]:
        """cls.apply, called with a tuple."""
        return lambda args: cls.apply(*args)

    def below_autograd(op: Any) -> Callable[..., Any]:
        """The operator without its autograd kernel or, as here, with it: slower, same result."""
        return op

    def register_autograd(cls: Any, library: Any) -> None:
        """Give an operator the derivatives of its Function, the documented way: reverse only."""
        torch.library.register_autograd(
            f"torchdet::{cls.operator}",
            cls.backward,
            setup_context=cls.setup_context,
            lib=library,
        )

else:
    HAS_LEVELS = True

    def route(args: Sequence[Tensor]) -> Route:
        """Who looks at a call decides what is called.

        "kernel": nobody differentiates, maps or traces. "record": autograd records a graph, and
        nothing else is at work. "levels": there is a transform of torch.func or a level of forward
        mode. "operator": torch.jit.trace is at work, or is_grads_batched records a graph.
        """
        if _is_tracing():
            return "operator"
        if _are_functorch_transforms_active() or forward_ad._current_level >= 0:
            return "levels"
        if not (torch.is_grad_enabled() and _any_requires_grad(*args)):
            return "kernel"
        return "operator" if has_batched_gradients(args) else "record"

    def is_recorded(args: Sequence[Tensor]) -> bool:
        """Whether a graph is recorded, at the innermost level."""
        return torch.is_grad_enabled() and _any_requires_grad(*args)

    def has_batched_gradients(args: Sequence[Tensor]) -> bool:
        """Whether is_grads_batched is at work, which runs a backward pass on batched tensors.

        A Function that records a graph for such a tensor records it for the batch as one, and torch
        drops it when the batch comes apart: derivatives of the result would silently lack a term.
        """
        return any(map(is_legacy_batchedtensor, args))

    def _apply_at_one_level(function: Any) -> Callable[..., Any]:
        return super(torch.autograd.Function, function).apply

    def _node(cls: Any, forward: Callable[..., Any], **members: Any) -> Callable[..., Any]:
        """Record a node with the derivatives of cls, whose forward takes ctx.

        It is the cheapest Function to call, but torch.func does not take it: it is of one level,
        without the 30 microseconds that a Function's own apply spends in inspect.signature.
        """
        members |= {"forward": forward, "backward": cls.backward}
        members["_compiled_autograd_key"] = _compiled_autograd_key
        statics = {key: staticmethod(member) for key, member in members.items()}
        function: Any = type(cls.__name__, (_SingleLevelFunction,), statics)
        return function.apply

    def recorder(cls: Any) -> Callable[[Sequence[Tensor]], Any]:
        """cls.apply, called with a tuple, for where a graph is recorded and nothing else is done.

        It can save what is no output: cls.results says how many of cls.forward's outputs are some.
        """
        results = cls.results

        def forward(ctx: Any, *args: Tensor) -> Any:
            outputs = cls.forward(*args)
            cls.setup_context(ctx, args, outputs)
            return outputs if results is None else outputs[:results]

        apply = _node(cls, forward)
        return lambda args: apply(*map(unwrap_if_dead, args))

    def record_all(cls: Any, args: Sequence[Tensor]) -> Any:
        """cls.apply, all outputs, as fast as a node."""
        return _apply_at_one_level(cls)(*args)

    def level_recorder(cls: Any, below: Any) -> Callable[[Sequence[Tensor]], Any]:
        """As record_all, for a level of torch.func: forward is below(cls, args, level)."""

        def forward(ctx: Any, *args: Tensor) -> Any:
            # torch switches derivatives off for a forward, and restores what was before. The levels
            # below need them on.
            _set_grad_enabled(True)
            _set_fwd_grad_enabled(True)
            outputs = below(cls, args, innermost_level())
            cls.setup_context(ctx, args, outputs)
            return outputs

        apply = _node(cls, forward)

        def record(args: Sequence[Tensor]) -> Any:
            allowed = get_single_level_autograd_function_allowed()
            set_single_level_autograd_function_allowed(True)
            try:
                return apply(*args)
            finally:
                set_single_level_autograd_function_allowed(allowed)

        return record

    def _number(kind: Any) -> int:  # a fast key; torch's stubs do not know that it is an int
        return int(kind)

    _GRAD, _JVP, _VMAP = map(_number, (TransformType.Grad, TransformType.Jvp, TransformType.Vmap))
    _POINTERS = {_GRAD: CGradInterpreterPtr, _JVP: CJvpInterpreterPtr, _VMAP: CVmapInterpreterPtr}
    _FRONT = DispatchKey.FuncTorchDynamicLayerFrontMode

    class Level:
        """One of the active transforms of torch.func."""

        __slots__ = ("_interpreter", "_kind", "_pointer",
                     "is_jvp", "maps", "number", "takes_operators_only")  # fmt: skip

        def __init__(self, interpreter: CInterpreter) -> None:
            self._interpreter = interpreter  # it owns what _pointer points to
            self._kind = kind = _number(interpreter.key())
            self.number = interpreter.level()
            self.is_jvp, self.maps = kind == _JVP, kind == _VMAP
            pointer = _POINTERS.get(kind)  # none for functionalize
            # In the kernel of an operator torch is at one level.
            self.takes_operators_only = pointer is None or (
                _dispatch_tls_is_dispatch_key_excluded(_FRONT)
            )
            self._pointer: Any = pointer and pointer(interpreter)

        def lift(self, x: Tensor) -> Tensor:
            """X as a Tensor of this level; it is a constant there if it was none."""
            lifted: Tensor = self._pointer.lift(x)
            return lifted

        def unwrap(self, x: Tensor) -> Tensor:
            """What X holds, a Tensor of the level below."""
            return _unwrap_for_grad(x, self.number)

        def wrap(self, x: Tensor) -> Tensor:
            """A Tensor of this level that holds X, without a derivative."""
            return _wrap_for_grad(x, self.number)

        @property
        def batch_size(self) -> int:
            """How many X vmap maps over."""
            size: int = self._pointer.batchSize()
            return size

        def unwrap_batched(self, x: Tensor) -> tuple[Tensor, int | None]:
            """What X holds, a Tensor of the level below, and which dimension of it is mapped."""
            return _unwrap_batched(x, self.number)

        def wrap_batched(self, x: Tensor) -> Tensor:
            """A Tensor of this level that maps over the first dimension of X."""
            return _add_batch_dim(x, 0, self.number)

        def below(self) -> AbstractContextManager[None]:
            """Leave this level; a mode that was off around its transform is off there."""
            if self._kind == _GRAD and not self._pointer.prevGradMode():
                return _Below(torch.no_grad())
            if self._kind == _JVP and not self._pointer.prevFwdGradMode():
                return _Below(enable_forward_ad(False))
            return _Below(None)

    class _Below:
        # A class, since contextlib.contextmanager takes longer than what it would manage here.

        __slots__ = ("_layer", "_mode")

        def __init__(self, mode: AbstractContextManager[Any] | None) -> None:
            self._mode = mode

        def __enter__(self) -> None:
            if self._mode is not None:
                self._mode.__enter__()
            self._layer = pop_dynamic_layer_stack()

        def __exit__(self, *exception: Any) -> None:
            push_dynamic_layer_stack(self._layer)
            if self._mode is not None:
                self._mode.__exit__(*exception)

    def at_bottom(x: Tensor) -> Tensor:
        """What X holds, below all levels of torch.func. There `below_levels` computes with it."""
        while is_functorch_wrapped_tensor(x):
            x = get_unwrapped(x)
        return x

    def innermost_level() -> Level | None:
        """Where torch.func is, if any of its transforms is active."""
        interpreter = peek_interpreter_stack()
        return None if interpreter is None else Level(interpreter)

    def tangents(args: Sequence[Tensor], level: Level | None) -> tuple[Tensor | None, ...] | None:
        """The tangents at this level; None where there are none at all.

        To ask takes 6 microseconds a Tensor. torch.func.jvp lets no other forward mode be around
        it, so with it only its own levels have some.
        """
        if forward_ad._current_level < 0 or not _is_fwd_grad_enabled():
            return None
        if eager_transforms.JVP_NESTING > 0 and not (level is not None and level.is_jvp):
            return None
        found = tuple(
            # One of is_grads_batched is a gradient or a tangent, and cannot be asked.
            None if is_legacy_batchedtensor(x) else forward_ad.unpack_dual(x, level=0).tangent
            for x in args
        )
        return None if all(x is None for x in found) else found

    def below_autograd(op: Any) -> Callable[..., Any]:
        """The operator without its autograd kernel: that is Python, dearer than a small matrix."""
        call = getattr(op, "_op", op)

        def kernel(*args: Tensor) -> Any:
            with _BelowAutograd():
                return call(*args)

        return kernel

    def register_autograd(cls: Any, library: Any) -> None:
        """Give an operator the derivatives of its Function: reverse and forward mode, torch.func.

        torch.library.register_autograd knows no jvp: forward mode through its operators is silently
        zero, and torch.func.grad raises. This registers the operator the way torch's own are, one
        torch.func level at a time: the levels below take their turn when forward calls it.
        """

        def forward(ctx: Any, *args: Tensor) -> Any:
            # A Function switches derivatives off for its forward; the levels below need them on.
            with torch.enable_grad(), enable_forward_ad(True):
                outputs = cls.forward(*args)
            cls.setup_context(ctx, args, outputs)
            return outputs

        apply = _node(cls, forward, jvp=cls.jvp)

        def autograd_kernel(*args: Tensor) -> Any:
            if route(args) == "kernel":
                return cls.forward(*args)
            with enable_single_level_autograd_function():
                return apply(*args)

        library.impl(cls.operator, autograd_kernel, "Autograd")
