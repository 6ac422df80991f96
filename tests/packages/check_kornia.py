"""kornia's functions that take determinants, on cameras whose answers are known.

The archives of kornia have no tests of these functions. A world point X is seen at P1 X and P2 X by
two cameras P = K [R | t]; the poses and points are drawn, so every answer is known beforehand.
"""

from __future__ import annotations

import math

import kornia.geometry as geometry
import pytest
import torch
from kornia.geometry import epipolar

import torchdet

POINTS = 12
SEEDS = range(12)
# kornia 0.8 adds 1e-8 to numbers of size 0.1 and more before it divides by them.
TOLERANCE = 1e-7


def rotation(seed: int) -> torch.Tensor:
    """A rotation by less than half a radian about a random axis."""
    torch.manual_seed(seed)
    x, y, z = (0.5 / math.sqrt(3) * (2 * torch.rand(3, dtype=torch.float64) - 1)).tolist()
    return torch.linalg.matrix_exp(
        torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    )


class Cameras:
    """Two cameras that look at points which lie before both."""

    def __init__(self, seed: int) -> None:
        self.R = rotation(seed)
        self.t = torch.tensor([[1.0], [0.2], [0.1]], dtype=torch.float64) + 0.1 * torch.rand(
            3, 1, dtype=torch.float64
        )
        self.K = torch.tensor([[1.5, 0, 0.5], [0, 1.4, 0.4], [0, 0, 1]], dtype=torch.float64)
        first = torch.eye(3, 4, dtype=torch.float64)
        self.P1, self.P2 = self.K @ first, self.K @ torch.cat([self.R, self.t], 1)
        self.world = 2 * torch.rand(POINTS, 3, dtype=torch.float64) - 1
        self.world[:, 2] += 5
        self.x1, self.x2 = self.seen(self.P1), self.seen(self.P2)
        self.E = epipolar.cross_product_matrix(self.t[None, :, 0])[0] @ self.R

    def seen(self, P: torch.Tensor) -> torch.Tensor:
        """Where a camera sees the points."""
        homogeneous = torch.cat([self.world, torch.ones(POINTS, 1, dtype=torch.float64)], 1)
        image = homogeneous @ P.T
        return image[:, :2] / image[:, 2:]

    def residual(self, F: torch.Tensor) -> torch.Tensor:
        """The largest x2^T F x1 of all points, for F of norm 1."""
        one = torch.ones(POINTS, 1, dtype=torch.float64)
        x1, x2 = torch.cat([self.x1, one], 1), torch.cat([self.x2, one], 1)
        return ((x2 @ F) * x1).sum(-1).abs().amax() / torch.linalg.matrix_norm(F)


@pytest.mark.parametrize("seed", SEEDS)
def test_fundamental_from_projections_annihilates_the_points(seed):
    cameras = Cameras(seed)
    F = epipolar.fundamental_from_projections(cameras.P1[None], cameras.P2[None])[0]
    assert cameras.residual(F) < TOLERANCE


def test_fundamental_from_projections_has_the_gradient_of_differences():
    P = torch.stack([Cameras(seed).P2 for seed in range(3)]).requires_grad_()
    first = Cameras(0).P1.expand(3, 3, 4)
    assert torch.autograd.gradcheck(lambda P: epipolar.fundamental_from_projections(first, P), (P,))


@pytest.mark.parametrize("seed", SEEDS)
def test_seven_points_give_the_fundamental_matrix(seed):
    cameras = Cameras(seed)
    candidates = epipolar.find_fundamental(
        cameras.x1[None, :7], cameras.x2[None, :7], method="7POINT"
    )[0]
    residuals = torch.stack([cameras.residual(F) for F in candidates])
    # A candidate that does not exist is NaN.
    assert residuals.nan_to_num(nan=math.inf).amin() < TOLERANCE


def turns_by(R: torch.Tensor, wanted: torch.Tensor) -> bool:
    return torch.allclose(R, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_essential_matrix_is_decomposed_by_its_singular_values(seed):
    cameras = Cameras(seed)
    R1, R2, _ = epipolar.decompose_essential_matrix(cameras.E[None])
    assert turns_by(R1[0], cameras.R) or turns_by(R2[0], cameras.R)


def are_decomposed_by_cofactors() -> bool:
    """Whether Horn's formula finds the rotation in every essential matrix, whose det is 0."""
    found = []
    for cameras in map(Cameras, SEEDS):
        R1, R2, _ = epipolar.decompose_essential_matrix_no_svd(cameras.E[None])
        found.append(turns_by(R1[0], cameras.R) or turns_by(R2[0], cameras.R))
    return all(found)


def test_essential_matrices_are_decomposed_by_their_cofactors():
    assert are_decomposed_by_cofactors()


def test_essential_matrices_are_decomposed_by_the_cofactors_of_torchdet(monkeypatch):
    monkeypatch.setattr(epipolar.essential, "matrix_cofactor_tensor", torchdet.cofactor)
    assert are_decomposed_by_cofactors()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_motion_is_found_by_which_points_lie_before_both_cameras(seed):
    cameras = Cameras(seed)
    K = cameras.K[None]
    R, t, *_ = epipolar.motion_from_essential_choose_solution(
        cameras.E[None], K, K, cameras.x1[None], cameras.x2[None]
    )
    assert turns_by(R[0], cameras.R)
    assert torch.allclose(t[0], cameras.t / cameras.t.norm(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_pose_is_found_from_points(seed):
    cameras = Cameras(seed)
    pose = geometry.solve_pnp_dlt(cameras.world[None], cameras.x2[None], cameras.K[None])[0]
    assert turns_by(pose[:, :3], cameras.R)
    assert torch.allclose(pose[:, 3:], cameras.t, rtol=0, atol=TOLERANCE)
