"""As _torch_internals.py, for whom torch asks before its own functions: modes and subclasses."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

C = TypeVar("C", bound=type)
# Documented, from torch 2.13 on.
_redispatch = getattr(torch.overrides, "redispatch_function", None)


def made_of_sequence(named_tuple: C) -> C:
    """Decorate a class of named tuples: one argument alone is the sequence of all fields.

    That is how torch makes one of its own, torch.return_types, and how Tensor.__torch_function__
    makes a result anew, with a subclass of Tensor in it.
    """
    of_fields: Any = named_tuple.__new__

    def __new__(cls: type, *args: Any, **fields: Any) -> Any:
        return of_fields(cls, *(args if fields or len(args) != 1 else args[0]), **fields)

    named_tuple.__new__ = __new__  # type: ignore[assignment, method-assign]
    return named_tuple


try:
    from torch._C import _get_function_stack_at as _mode_at
    from torch._C import _is_torch_function_enabled as _asks_subclasses
    from torch._C import _len_torch_dispatch_stack as _count_dispatch_modes
    from torch._C import _len_torch_function_stack as _count_modes
    from torch._C import _pop_torch_function_stack as _pop_mode
    from torch._C import _push_on_torch_function_stack as _push_mode
    from torch._C._autograd import _top_saved_tensors_default_hooks as _hooks

    _hooks(False)
except (ImportError, TypeError):

    def asks(kind: type) -> bool:
        """Whether this is no Tensor, but as good as one; of subclasses it is not known here."""
        return not issubclass(kind, Tensor)

    def has_hooks() -> bool:
        """Not known here; there may be some."""
        return True

    def has_dispatch_modes() -> bool:
        """Not known here; there may be some."""
        return True

    def call_within(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call func; the mode does not see what that calls."""
        return func(*args, **kwargs)

    def call_without(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call func where no mode sees it, and no subclass."""
        with torch._C.DisableTorchFunction():
            return func(*args, **kwargs)

else:

    def asks(kind: type) -> bool:
        """Whether torch asks this class at present: it is a subclass of Tensor, or as good as."""
        return (
            kind is not Tensor
            and kind.__torch_function__ is not torch._C._disabled_torch_function_impl  # type: ignore[attr-defined]
            and _asks_subclasses()
        )

    def has_hooks() -> bool:
        """Whether torch.autograd.graph.saved_tensors_hooks are at work, as in a checkpoint."""
        return not torch.compiler.is_compiling() and _hooks(False) is not None

    def has_dispatch_modes() -> bool:
        """Whether something sees every operator, as make_fx does to write a program of them."""
        return _count_dispatch_modes() > 0

    def call_within(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call a function of torch that is written in Python; the mode sees what that calls.

        Other modes and subclasses see func itself first, as ever: the mode becomes the outermost.
        """
        if _redispatch is None or torch.compiler.is_compiling():
            return func(*args, **kwargs)
        modes = _modes()
        others = [x for x in modes if type(x) is not type(mode)]
        _replace_modes([mode, *others])
        try:
            if others:
                return func(*args, **kwargs)
            if kind := next(filter(asks, types), None):
                return kind.__torch_function__(func, types, args, kwargs)
            return _redispatch(func, types, args, kwargs)
        finally:
            _replace_modes(modes)

    def call_without(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """Call func where no mode of this type sees it; all others do."""
        modes = _modes()
        _replace_modes([x for x in modes if type(x) is not type(mode)])
        try:
            return func(*args, **kwargs)
        finally:
            _replace_modes(modes)

    def _modes() -> list[Any]:
        return [_mode_at(i) for i in range(_count_modes())]

    def _replace_modes(modes: Sequence[Any]) -> None:
        while _count_modes():
            _pop_mode()
        for mode in modes:
            _push_mode(mode)
