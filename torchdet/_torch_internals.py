"""Everything torchdet takes from torch that torch does not document, in one place.

Where a name only buys speed, a torch without it gets a slower, documented way. The one name that
results depend on is imported without a net: a torch without it fails here, not by wrong numbers.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

# Second forward-mode derivatives are silently zero without it (_autograd.forward_rule).
from torch.autograd.forward_ad import _set_fwd_grad_enabled as enable_forward_ad
from torch.overrides import handle_torch_function, has_torch_function_unary

__all__ = [
    "apply_function",
    "below_autograd",
    "enable_forward_ad",
    "handle_torch_function",
    "has_batched_gradients",
    "has_torch_function_unary",
    "has_transforms",
    "is_recorded",
    "is_traced",
    "recorder",
    "register_autograd",
    "without_tangent",
]


# Documented, but not in torch's stubs.
is_traced: Callable[[], bool] = torch.jit.is_tracing  # type: ignore[attr-defined]


def without_tangent(x: Tensor) -> Tensor:
    """X without its tangent of the current forward-mode level, but with those of other levels."""
    return forward_ad.unpack_dual(x, level=0).primal


try:
    from torch._C import (
        DispatchKey,
        _any_requires_grad,
        _are_functorch_transforms_active,
        _dispatch_tls_is_dispatch_key_excluded,
    )
    from torch._C import _AutoDispatchBelowAutograd as _BelowAutograd
    from torch._C._functorch import (
        TransformType,
        get_interpreter_stack,
        is_legacy_batchedtensor,
        unwrap_if_dead,
    )
    from torch._functorch.utils import enable_single_level_autograd_function
    from torch.autograd.function import _SingleLevelFunction

    assert isinstance(forward_ad._current_level, int)
except (ImportError, AttributeError, AssertionError):

    def has_transforms() -> bool:
        """Whether there are torch.func transforms or dual levels; True where torch hides it."""
        return True

    def is_recorded(args: tuple[Tensor, ...]) -> bool:
        """Whether a graph is recorded; True where torch does not tell."""
        return True

    def has_batched_gradients(args: tuple[Tensor, ...]) -> bool:
        """Whether is_grads_batched is at work; False where torch does not tell."""
        return False

    def recorder(cls: Any) -> Callable[[tuple[Tensor, ...]], Any]:
        """cls.apply, called with a tuple."""
        return lambda args: cls.apply(*args)

    def apply_function(cls: Any, args: tuple[Tensor, ...]) -> Any:
        """cls.apply(*args)."""
        return cls.apply(*args)

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

    def has_transforms() -> bool:
        """Whether there is a torch.func transform or a level of forward mode."""
        return _are_functorch_transforms_active() or forward_ad._current_level >= 0

    def is_recorded(args: tuple[Tensor, ...]) -> bool:
        """Whether a graph is recorded."""
        return torch.is_grad_enabled() and _any_requires_grad(*args)

    def has_batched_gradients(args: tuple[Tensor, ...]) -> bool:
        """Whether is_grads_batched is at work, which runs a backward pass on batched tensors.

        A Function that records a graph for such a tensor records it for the batch as one, and torch
        drops it when the batch comes apart: derivatives of the result would silently lack a term.
        """
        return any(map(is_legacy_batchedtensor, args))

    def recorder(cls: Any) -> Callable[[tuple[Tensor, ...]], Any]:
        """cls.apply, called with a tuple, for where a graph is recorded and nothing else is done.

        A Function whose forward takes ctx is the cheapest to call, but torch.func does not take it.
        It can save what is no output: cls.results says how many of cls.forward's outputs are some.
        """
        kernel, setup_context, results = cls.forward, cls.setup_context, cls.results

        def forward(ctx: Any, *args: Tensor) -> Any:
            output = kernel(*args)
            setup_context(ctx, args, output)
            return output if results is None else output[:results]

        members = {"forward": staticmethod(forward), "backward": staticmethod(cls.backward)}
        function: Any = type(cls.__name__, (torch.autograd.Function,), members)
        apply = super(torch.autograd.Function, function).apply

        return lambda args: apply(*map(unwrap_if_dead, args))

    def apply_function(cls: Any, args: tuple[Tensor, ...]) -> Any:
        """cls.apply(*args) without the 30 microseconds it spends in inspect.signature.

        Function.apply looks for default arguments, which the Functions here do not have, and
        then, where no torch.func transform is active, does what stands here.
        """
        if not _are_functorch_transforms_active():
            args = tuple(map(unwrap_if_dead, args))
            return super(torch.autograd.Function, cls).apply(*args)
        if any(level.key() == TransformType.Functionalize for level in get_interpreter_stack()):
            return getattr(torch.ops.torchdet, cls.operator)(*args)  # it takes no Functions
        if _dispatch_tls_is_dispatch_key_excluded(DispatchKey.FuncTorchDynamicLayerFrontMode):
            # In the jvp of an operator torch is at one of its levels and takes operators only.
            return getattr(torch.ops.torchdet, cls.operator)(*args)
        return cls.apply(*args)

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

        def forward(*args: Tensor) -> Any:
            # A Function switches derivatives off for its forward; the levels below need them on.
            with torch.enable_grad(), enable_forward_ad(True):
                return cls.forward(*args)

        members = {"forward": forward, "setup_context": cls.setup_context}
        members |= {"backward": cls.backward, "jvp": cls.jvp}
        statics = {key: staticmethod(member) for key, member in members.items()}
        function: Any = type(f"{cls.__name__}Operator", (_SingleLevelFunction,), statics)

        def autograd_kernel(*args: Tensor) -> Any:
            if not (has_transforms() or is_recorded(args)):
                return cls.forward(*args)
            with enable_single_level_autograd_function():
                return function.apply(*args)

        library.impl(cls.operator, autograd_kernel, "Autograd")
