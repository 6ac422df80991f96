"""FrEIA's modules that take determinants, against singular values and each other.

The archive of FrEIA has no tests.
"""

from __future__ import annotations

import FrEIA.framework as framework
import FrEIA.modules as modules
import pytest
import torch

BATCH = 4
# Differences over h = 1e-4: the term of order h^2 is some 1e-8, rounding is eps / h = 2e-12.
DIFFERENCES = 1e-6
BLOCKS = (modules.NICECouplingBlock, modules.RNVPCouplingBlock, modules.GLOWCouplingBlock,
          modules.GINCouplingBlock)  # fmt: skip


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def by_singular_values(M: torch.Tensor) -> torch.Tensor:
    """log|det M|."""
    return torch.linalg.svdvals(M).log().sum()


def subnet(inputs: int, outputs: int) -> torch.nn.Module:
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, 16), torch.nn.Tanh(), torch.nn.Linear(16, outputs)
    )


@pytest.mark.parametrize("n", (1, 2, 5, 16, 64))
def test_a_fixed_linear_transform_knows_its_log_determinant(n):
    M = torch.randn(n, n)
    module = modules.FixedLinearTransform([(n,)], M=M)
    x = torch.randn(BATCH, n)
    (y,), jacobian = module((x,))
    torch.testing.assert_close(jacobian, by_singular_values(M).expand(BATCH))
    (back,), inverse = module((y,), rev=True)
    torch.testing.assert_close(inverse, -jacobian)
    torch.testing.assert_close(back, x)


@pytest.mark.parametrize("channels", (2, 3, 12, 48))
def test_a_fixed_convolution_counts_every_pixel(channels):
    M = torch.randn(channels, channels)
    module = modules.Fixed1x1Conv([(channels, 5, 7)], M=M)
    _, jacobian = module((torch.randn(BATCH, channels, 5, 7),))
    torch.testing.assert_close(jacobian, 35 * by_singular_values(M))


@pytest.mark.parametrize("dims", (2, 6, 12))
@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_the_jacobian_by_differences_is_that_of_the_modules(block, dims):
    nodes = [framework.InputNode(dims)]
    for _ in range(3):
        nodes.append(framework.Node(nodes[-1], block, {"subnet_constructor": subnet}))
    M = torch.linalg.qr(torch.randn(dims, dims)).Q + 0.1 * torch.eye(dims)
    nodes.append(framework.Node(nodes[-1], modules.FixedLinearTransform, {"M": M}))
    network = framework.GraphINN([*nodes, framework.OutputNode(nodes[-1])])
    x = torch.randn(BATCH, dims)
    with torch.no_grad():
        _, jacobian = network(x)
        differences = network.log_jacobian_numerical(x)
    torch.testing.assert_close(differences, jacobian, rtol=0, atol=DIFFERENCES * dims)
