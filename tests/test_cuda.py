"""What only a GPU can show: launches, streams, graphs, memory, waiting, batches beyond 2^31.

Values, derivatives and contract are tested by the other files, on every device there is.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import torchdet
from conftest import NO_CUDA
from support import OPS, all_outputs, draw, of_class_large, same_bits

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason=NO_CUDA)

NATIVE = (2, 3, 4, 5, 8, 12, 16, 24, 32, 48, 64)
# Above what shared memory holds: an LU between two kernels.
LARGE = (300,)


def operators(A: Tensor) -> dict[str, Callable[[], object]]:
    grad = torch.ones(A.shape[:-2], dtype=A.dtype, device=A.device)
    Z = torch.randn_like(A)
    return {
        "det": lambda: OPS.det(A),
        "slogdet": lambda: OPS.slogdet(A),
        "cofactor": lambda: OPS.cofactor(A),
        "det_backward": lambda: OPS.det_backward(grad, A),
        "slogdet_backward": lambda: OPS.slogdet_backward(grad, A),
        "det_hvp": lambda: OPS.det_hvp(A, Z),
        "_slogdet_hvp_kept": lambda: OPS._slogdet_hvp_kept(A, Z),
    }


def skip_what_does_not_fit(n: int, dtype: torch.dtype) -> None:
    """Devices with little shared memory hand some of these orders to the class "large"."""
    if of_class_large(n, dtype):
        pytest.skip("beyond the shared memory of this device")


@pytest.mark.parametrize("n", NATIVE)
def test_every_operator_is_one_launch(n, dtype):
    skip_what_does_not_fit(n, dtype)
    for name, call in operators(draw(100, n, dtype, "cuda")).items():
        call()  # the first one loads the kernel
        torch.cuda.synchronize()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        kernels = [e.name for e in profile.events() if e.device_type.name == "CUDA"]
        assert len([k for k in kernels if "run_kernel" in k]) == 1, (name, kernels)
        assert len(kernels) == 1, (name, kernels)


@pytest.mark.parametrize("n", (*NATIVE, *LARGE))
def test_no_operator_waits_for_the_device(n, dtype):
    """As torch sees it; that the native kernels do not wait is what lets a graph capture them."""
    calls = operators(draw(10, n, dtype, "cuda"))
    for call in calls.values():  # handles of cuBLAS and cuSOLVER are made on first use
        call()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for call in calls.values():
            call()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("batch", (15, 16))  # torch's LU, and the LU of csrc/cuda/lu
@pytest.mark.parametrize("n", (300, 700, 1100))  # panels of one block, of two to four, of more
def test_training_steps_of_large_matrices(n, batch, dtype):
    """P A = L U is exact for a matrix that is n eps |L| |U| away at most (Higham, theorem 9.3)."""
    # Rows of a matrix with a strong diagonal, in any order: well conditioned, and all exchanged.
    A = torch.randn(batch, n, n, dtype=dtype) + 2 * n**0.5 * torch.eye(n, dtype=dtype)
    A = A[:, torch.randperm(n)].to("cuda").requires_grad_()
    sign, logabsdet = torchdet.slogdet(A)
    (G,) = torch.autograd.grad(logabsdet.sum(), A)
    wide = A.detach().cpu().to(torch.complex128 if dtype.is_complex else torch.float64)
    _, L, U = torch.linalg.lu(wide)
    X = torch.linalg.inv(wide)
    norms = [x.abs().double().square().sum((-2, -1)).sqrt() for x in (X, L.abs() @ U.abs())]
    bound = n * torch.finfo(dtype).eps * norms[0] * norms[1]
    assert bound.max() < 1
    true = torch.linalg.slogdet(wide)
    assert ((logabsdet.cpu() - true.logabsdet).abs() <= bound).all()
    assert ((sign.cpu() - true.sign).abs() <= bound).all()
    # The solve has errors of twice as much beside, and the product is rounded in wider numbers.
    identity = torch.eye(n, dtype=wide.dtype)
    residual = G.cpu().to(wide.dtype).mH @ wide - identity
    assert (residual.abs().square().sum((-2, -1)).sqrt() <= 3 * bound).all()


@pytest.mark.parametrize("n", NATIVE)
def test_nothing_but_the_outputs_is_allocated(n, dtype):
    skip_what_does_not_fit(n, dtype)
    for name, call in operators(draw(1000, n, dtype, "cuda")).items():
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        call()
        allocations = torch.cuda.memory_stats()["allocation.all.allocated"] - before
        assert allocations == (2 if name == "slogdet" else 1), name


@pytest.mark.parametrize("n", NATIVE)
def test_a_captured_graph_replays_on_new_matrices(n, dtype):
    skip_what_does_not_fit(n, dtype)
    A = draw(50, n, dtype, "cuda")
    all_outputs(A)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = all_outputs(A)
    A.copy_(draw(50, n, dtype, "cuda"))
    graph.replay()
    torch.cuda.synchronize()
    for got, expected in zip(captured, all_outputs(A), strict=True):
        assert same_bits(got, expected)


@pytest.mark.parametrize("n", (3, 16, 64))
def test_compiled_training_steps_run_in_cudagraph_mode(n):
    def loss(A: Tensor) -> Tensor:
        return torchdet.slogdet(A).logabsdet.sum() + torchdet.det(A).square().sum()

    A = (torch.randn(20, n, n, device="cuda") / n**0.5).requires_grad_()
    (expected,) = torch.autograd.grad(loss(A), A)
    compiled = torch.compile(loss, fullgraph=True, mode="reduce-overhead")
    for _ in range(3):
        torch.compiler.cudagraph_mark_step_begin()
        (got,) = torch.autograd.grad(compiled(A), A)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("n", (3, 16, 64, *LARGE))
def test_every_stream_gets_its_own_results(n):
    batches = [draw(200, n, torch.float32, "cuda") for _ in range(4)]
    expected = [all_outputs(A) for A in batches]
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]
    results = []
    for stream, A in zip(streams, batches, strict=True):
        with torch.cuda.stream(stream):
            results.append(all_outputs(A))
    torch.cuda.synchronize()
    for got, right in zip(results, expected, strict=True):
        assert all(same_bits(g, r) for g, r in zip(got, right, strict=True))


# One after the other: each takes a quarter of a large device's memory.
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("n", (2, 3, 4, 8, 32))
def test_a_batch_of_more_than_2_to_the_31_entries_is_walked_with_64_bits(n):
    batch = 2**31 // n**2 + 5
    free, _ = torch.cuda.mem_get_info()
    if free < 2.2 * batch * n * n * 4:
        pytest.skip("too little memory on this device")
    A = torch.zeros(batch, n, n, device="cuda")
    A[-3:] = 2 * torch.eye(n, device="cuda")
    d = torchdet.det(A)
    assert d[-3:].tolist() == [2.0**n] * 3
    assert not d[:-3].any()
    C = torchdet.cofactor(A)
    assert same_bits(C[-3:], torchdet.cofactor(A[-3:]))
    del A, d, C
    torch.cuda.empty_cache()


def test_a_tensor_on_another_device_is_refused():
    A = torch.eye(3, device="cuda").expand(2, 3, 3)
    with pytest.raises(RuntimeError, match=r"det_backward.*same device"):
        OPS.det_backward(torch.ones(2), A)
    with pytest.raises(RuntimeError, match=r"det_hvp.*same device"):
        OPS.det_hvp(A, torch.eye(3).expand(2, 3, 3))
    with pytest.raises(RuntimeError, match=r"det.*device"):
        torchdet.det(A, out=torch.empty(2))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one CUDA device only")
def test_a_device_that_is_not_the_current_one_does_the_work():
    A = draw(10, 6, torch.float32, "cuda")
    other = A.to("cuda:1")
    for got, expected in zip(all_outputs(other), all_outputs(A), strict=True):
        assert got.device == other.device
        assert same_bits(got.to(A.device), expected)
