"""accelerate with what else stands between a call and its function: transforms, compilers, modes,
subclasses of Tensor, backward passes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jacfwd, jacrev, jvp, vjp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import CheckpointError, checkpoint

import support
import torchdet
from support import COFACTOR, SINGULAR, gradient_at_singular, singular_leaf
from torchdet import accelerate

det = torch.linalg.det
# Whether a backward pass can be told of a mode (_torch_modes.py).
TELLS_BACKWARD = hasattr(torch.overrides, "redispatch_function")


def batch() -> Tensor:
    """Regular, singular and zero matrices."""
    A = torch.randn(6, 3, 3, dtype=torch.float64)
    A[1, 0] = A[1, 1]
    A[2] = 0
    return A


# ---- transforms


def jvp_of_grad(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda A: jvp(grad(f), (A,), (A.sin(),))


def vjp_of_jacfwd(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    return lambda A: vjp(jacfwd(f), A)[1](A.cos())[0]


TRANSFORMS: dict[str, Callable[..., Callable[[Tensor], Any]]] = {
    "vmap": vmap,
    "vmap(grad)": lambda f: vmap(grad(f)),
    "vmap(jacrev)": lambda f: vmap(jacrev(f)),
    "vmap(jacfwd)": lambda f: vmap(jacfwd(f)),
    "vmap(hessian)": lambda f: vmap(hessian(f)),
    "vmap(jvp(grad))": lambda f: vmap(jvp_of_grad(f)),
    "vmap(vjp(jacfwd))": lambda f: vmap(vjp_of_jacfwd(f)),
    "vmap(vmap(grad))": lambda f: lambda A: vmap(vmap(grad(f)))(A[None]),
    "jacrev(vmap)": lambda f: jacrev(vmap(f)),
    "jacfwd(jacrev)": lambda f: lambda A: jacfwd(jacrev(f))(A[1]),
}


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("entered", ("around", "inside"))
def test_transforms_give_the_bits_of_torchdet(entered, name):
    transform, A = TRANSFORMS[name], batch()
    expected = transform(torchdet.det)(A)
    if entered == "around":
        with accelerate():
            got = transform(det)(A)
    else:
        got = transform(accelerate()(det))(A)
    pairs = zip(got, expected, strict=True) if isinstance(got, tuple) else [(got, expected)]
    assert all(support.same_bits(g, e) for g, e in pairs)


def test_forward_mode_and_second_derivatives_of_autograd():
    A, Z = batch(), torch.randn(6, 3, 3, dtype=torch.float64)
    with accelerate(), forward_ad.dual_level():
        dual = forward_ad.make_dual(A, Z)
        tangent = forward_ad.unpack_dual(det(dual)).tangent
    # Laplace's expansion of each row with the row of Z in its place.
    rows = torch.stack([torch.cat((A[:, :i], Z[:, i : i + 1], A[:, i + 1 :]), 1) for i in range(3)])
    bound = 64 * torch.finfo(A.dtype).eps  # some ten operations on numbers of modulus 1 to 5
    assert torch.allclose(tangent, torchdet.det(rows).sum(0), rtol=bound, atol=bound)
    with accelerate():
        (g,) = torch.autograd.grad(det(X := singular_leaf()), X, create_graph=True)
    (h,) = torch.autograd.grad(g, X, torch.eye(2).double())
    assert torch.equal(h, torch.eye(2).double())  # C([[a, b], [c, d]]) = [[d, -c], [-b, a]]


def test_functional_call_and_parameters():
    class Volume(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.eye(2, dtype=torch.float64))

        def forward(self) -> Tensor:
            return self.weight.det()

    model = Volume()
    with accelerate():
        assert "Linalg" not in model().grad_fn.__class__.__name__
        got = grad(lambda W: functional_call(model, {"weight": W}, ()))(SINGULAR)
    assert torch.equal(got, COFACTOR)


def test_a_distribution_that_knows_nothing_of_it():
    log = Log()
    with log, accelerate():
        wishart = torch.distributions.Wishart(torch.tensor(5.0), torch.eye(3))
        wishart.log_prob(torch.eye(3))
    assert torchdet.slogdet in log.seen and torch.linalg.slogdet not in log.seen


# ---- backward passes


class Squared(torch.autograd.Function):
    """det(A)**2, whose backward asks torch for det(A) and for its gradient."""

    @staticmethod
    def forward(ctx: Any, A: Tensor) -> Tensor:
        ctx.save_for_backward(A)
        return det(A) ** 2

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        with torch.enable_grad():
            A = ctx.saved_tensors[0].detach().requires_grad_()
            return 2 * g * det(A + 1) * torch.autograd.grad(det(A), A)[0]


@pytest.mark.skipif(not TELLS_BACKWARD, reason="torch has it from version 2.13 on")
def test_code_that_a_backward_pass_runs_is_served():
    scale = 2 * torchdet.det(SINGULAR + 1)
    with accelerate():
        assert torch.equal(gradient_at_singular(Squared.apply), scale * COFACTOR)
        A = singular_leaf()
        (g,) = torch.autograd.grad(Squared.apply(A), A)
        assert torch.equal(g, scale * COFACTOR)
        torch.autograd.backward([Squared.apply(A)], inputs=[A])
        assert torch.equal(A.grad, scale * COFACTOR)
        with accelerate(enable=False):
            assert not torch.equal(gradient_at_singular(Squared.apply), scale * COFACTOR)
            with accelerate(), Log(), accelerate():
                assert torch.equal(gradient_at_singular(Squared.apply), scale * COFACTOR)
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("reentrant", (False, True))
def test_a_checkpoint_is_computed_anew_where_its_backward_pass_is(reentrant):
    def again(A: Tensor) -> Tensor:
        return checkpoint(det, A * 1, use_reentrant=reentrant)

    decorated = accelerate()(det)
    got = gradient_at_singular(lambda A: checkpoint(decorated, A * 1, use_reentrant=reentrant))
    assert torch.equal(got, COFACTOR)
    if TELLS_BACKWARD:
        with accelerate():
            assert torch.equal(gradient_at_singular(again), COFACTOR)
    if not reentrant:
        contexts = {"context_fn": lambda: (accelerate(), accelerate())}
        got = gradient_at_singular(
            lambda A: checkpoint(det, A * 1, use_reentrant=False, **contexts)
        )
        assert torch.equal(got, COFACTOR)


@pytest.mark.parametrize("n", (3, 20, 40))
@pytest.mark.parametrize("function", (det, lambda A: torch.slogdet(A).logabsdet))
def test_a_checkpoint_that_is_computed_anew_elsewhere_is_an_error(function, n):
    """Else torchdet's backward pass would be given tensors that torch's functions save."""

    def f(A: Tensor) -> Tensor:
        return checkpoint(lambda A: function(A) + function(A.mT), A.sin(), use_reentrant=False)

    A = torch.randn(n, n, requires_grad=True)
    with accelerate():
        output = f(A)
    with pytest.raises(CheckpointError):
        output.backward()
    if TELLS_BACKWARD:
        output = f(A)
        with accelerate(), pytest.raises(CheckpointError):
            output.backward()


# ---- other modes


class Log(TorchFunctionMode):
    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def test_other_modes_see_each_call_in_their_turn():
    outer, inner, A = Log(), Log(), singular_leaf()
    with outer, accelerate(), inner:
        det(A).backward()
    assert torch.equal(A.grad, COFACTOR)
    assert inner.seen == [det, Tensor.backward]
    assert outer.seen == [torchdet.det, Tensor.backward]


def test_other_modes_see_what_is_switched_off():
    logs, A = [Log() for _ in range(3)], singular_leaf()
    with logs[0], accelerate(), logs[1], accelerate(enable=False), logs[2]:
        det(A).backward()
        assert len(torch.overrides._get_current_function_mode_stack()) == 5
    assert all(log.seen == [det, Tensor.backward] for log in logs)


def test_other_modes_see_what_torchdet_refuses():
    log = Log()
    A = SINGULAR.long()
    with log, accelerate(), pytest.raises(RuntimeError):
        det(A)
    assert log.seen[0] is torchdet.det and log.seen[-1] is det  # between them A is looked at


@pytest.mark.parametrize("first", (False, True))
def test_a_device_context_and_a_default_device(first):
    device = torch.device("meta")
    contexts = [accelerate(), device] if first else [device, accelerate()]
    with contexts[0], contexts[1]:
        assert det(torch.empty(3, 2, 2)).device.type == "meta"
        assert torch.equal(gradient_at_singular(det), COFACTOR)
    torch.set_default_device("meta")
    try:
        with accelerate():
            assert det(torch.empty(3, 2, 2)).device.type == "meta"
            assert torch.equal(gradient_at_singular(det), COFACTOR)
    finally:
        torch.set_default_device(None)


# ---- subclasses


class Named(Tensor):
    """Has torch's own __torch_function__."""


class Logged(Tensor):
    """Notes what it is asked, and answers one of it itself."""

    seen: list[Any]

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.seen.append(func)
        if func is torch.logdet:
            return "an answer of its own"
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("call", (det, torch.det, Tensor.det, lambda A: torch.slogdet(A).sign))
def test_a_subclass_keeps_its_type(call):
    with accelerate():
        assert type(call(torch.eye(2).as_subclass(Named))) is Named


@pytest.mark.parametrize("function", (det, Tensor.det))
def test_a_subclass_is_asked_for_the_functions_of_torch(function):
    Logged.seen = []
    A = singular_leaf()
    with accelerate():
        L = A.as_subclass(Logged)
        Logged.seen.clear()
        output = function(L)
        assert Logged.seen == [function]
        assert torch.logdet(L) == "an answer of its own"
        assert type(output) is Logged
        Logged.seen.clear()
        output.backward()
        assert Logged.seen == [Tensor.backward]
    assert torch.equal(A.grad, COFACTOR)


def test_an_object_that_is_no_tensor_answers_itself():
    class Diagonal:
        def __init__(self, d: Tensor) -> None:
            self.d = d

        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            return args[0].d.prod() if func is det else NotImplemented

    with accelerate():
        assert det(Diagonal(torch.tensor([2.0, 3.0]))) == 6
        with pytest.raises(TypeError, match="NotImplemented"):
            torch.slogdet(Diagonal(torch.ones(1)))


class Wrapper(Tensor):
    """Passes on the operators that it knows."""

    known: Callable[[Any], bool]

    @staticmethod
    def __new__(cls, inner: Tensor) -> Wrapper:
        return Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not cls.known(func):
            return NotImplemented
        args = [x.inner if isinstance(x, Wrapper) else x for x in args]
        out = func(*args, **(kwargs or {}))
        return Wrapper(out) if isinstance(out, Tensor) else tuple(map(Wrapper, out))


def test_a_wrapper_of_every_operator_is_served():
    seen = []
    Wrapper.known = lambda func: seen.append(str(func)) or True
    A = Wrapper(SINGULAR).requires_grad_()
    with accelerate():
        output = det(A)
    output.backward()
    assert torch.equal(A.grad.inner, COFACTOR)
    assert seen[0].startswith("torchdet.")


def test_a_wrapper_that_knows_only_torchs_operators_gets_them():
    Wrapper.known = lambda func: func.namespace == "aten"
    A = torch.randn(3, 3, dtype=torch.float64)
    with accelerate():
        one, (sign, logabsdet) = det(Wrapper(A)), torch.slogdet(Wrapper(A))
    assert torch.equal(one.inner, det(A))
    assert torch.equal(torch.stack((sign.inner, logabsdet.inner)), torch.stack(torch.slogdet(A)))


def test_fake_tensors():
    with torch._subclasses.FakeTensorMode() as mode, accelerate():
        sign, logabsdet = torch.slogdet(mode.from_tensor(torch.empty(4, 3, 3)))
    assert sign.shape == logabsdet.shape == (4,)


def test_gradients_of_a_subclass_keep_its_type():
    A = SINGULAR.clone().as_subclass(Named).requires_grad_()
    (expected,) = torch.autograd.grad(A.sum(), A)
    with accelerate():
        (got,) = torch.autograd.grad(det(A), A)
    assert type(got) is type(expected)
    assert torch.equal(got.as_subclass(Tensor), COFACTOR)


def test_an_object_whose_call_is_a_generator_or_a_coroutine_is_decorated():
    """As a function of that kind: it runs inside after the call has returned, too."""

    class Steps:
        def __call__(self) -> Iterator[Tensor]:
            yield gradient_at_singular(det)

    class Job:
        async def __call__(self) -> Tensor:
            return gradient_at_singular(det)

    (got,) = accelerate()(Steps())()
    assert torch.equal(got, COFACTOR)
    assert torch.equal(asyncio.run(accelerate()(Job())()), COFACTOR)
