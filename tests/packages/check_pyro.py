"""Pyro's functions that take determinants: expected information gains, and samples of processes.

The archive of Pyro has no tests that reach a determinant.
"""

from __future__ import annotations

import math

import pyro
import pyro.contrib.gp as gp
import pytest
import torch
from pyro.contrib.oed.glmm import known_covariance_linear_model
from pyro.contrib.oed.util import linear_model_ground_truth

DESIGNS = 6


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("coefficients", (1, 2, 5, 16))
@pytest.mark.parametrize("gain", (True, False), ids=("gain", "entropy"))
def test_the_information_gain_of_a_linear_model(coefficients, gain):
    spread = torch.rand(coefficients) + 0.5
    model = known_covariance_linear_model(torch.zeros(coefficients), spread, torch.tensor(1.0))
    designs = torch.randn(DESIGNS, coefficients + 1, coefficients)
    # One design a call: the entropy of the prior is that of all designs together.
    found = torch.cat(
        [linear_model_ground_truth(model, one, "y", "w", eig=gain) for one in designs.split(1)]
    )
    # The posterior of a Gaussian model, by eigenvalues.
    precision = torch.diag(spread**-2) + designs.mT @ designs
    of_posterior = -torch.linalg.eigvalsh(precision).log().sum(-1)
    of_prior = 2 * spread.log().sum()
    if gain:
        wanted = (of_prior - of_posterior) / 2
    else:
        wanted = (coefficients * math.log(2 * math.pi * math.e) + of_posterior) / 2
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("points", (1, 4, 12))
def test_a_sampled_function_of_a_gaussian_process_keeps_its_values(points):
    X = torch.linspace(-1, 1, 3)
    kernel = gp.kernels.RBF(1, lengthscale=torch.tensor(0.3))
    model = gp.models.GPRegression(X, X.sin(), kernel, noise=torch.tensor(0.01), jitter=1e-8)
    sample = model.iter_sample(noiseless=True)
    places = [torch.tensor([1.5 + 0.7 * k]) for k in range(points)]
    first = [sample(x).detach() for x in places]
    # Known values return, up to the square root of the jitter: a few standard deviations.
    again = [sample(x).detach() for x in places]
    torch.testing.assert_close(torch.stack(again), torch.stack(first), rtol=0, atol=1e-3)
