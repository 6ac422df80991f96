"""Importing, the choice between extension and reference, and the command line."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

import support
import torchdet

LIMIT = 180
HIDDEN = Path(__file__).resolve().parents[1] / "tools" / "torch_without_private_names"


def fresh_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """With these variables, and none that chooses an implementation or filters warnings."""
    env = {k: v for k, v in os.environ.items() if k not in ("TORCHDET_EXTENSION", "PYTHONWARNINGS")}
    return support.python(*arguments, limit=LIMIT, env={**env, **environment})


CHECK = """
import torch, torchdet
A = torch.tensor([[1.0, 2.0], [2.0, 4.0]], requires_grad=True)
torchdet.det(A).backward()
assert A.grad.tolist() == [[4.0, -2.0], [-2.0, 1.0]]
"""
# None in sys.modules makes the import of that name fail, as in an install without a compiler.
WITHOUT_EXTENSION = """
import sys, warnings
sys.modules["torchdet._C"] = None
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torchdet, torch
    torchdet.det(torch.eye(3)); torchdet.det(torch.eye(4)); import torchdet.linalg
mine = [w for w in caught if "torchdet" in str(w.message)]
assert len(mine) == 1, [str(w.message) for w in caught]
assert "extension" in str(mine[0].message)
"""


def test_the_public_names_are_those_documented():
    names = ["accelerate", "adjugate", "cofactor", "det", "det_frexp", "logdet"]
    names += ["principal_minors", "slogdet", "slogdet_solve", "slogsumdet", "slogsumdet_laplacian"]
    assert sorted(torchdet.__all__) == names
    assert torchdet.__version__ == "0.2.0"
    assert all(getattr(torchdet, name).__doc__ for name in torchdet.__all__)


def test_switching_the_extension_off_is_silent_and_right():
    done = fresh_python("-W", "error:.*torchdet", "-c", CHECK, TORCHDET_EXTENSION="0")
    assert done.returncode == 0, done.stderr
    assert "torchdet" not in done.stderr


def test_switching_the_extension_off_leaves_it_unloaded():
    code = "import sys, torchdet; assert 'torchdet._C' not in sys.modules"
    assert fresh_python("-c", code, TORCHDET_EXTENSION="0").returncode == 0


def test_a_missing_extension_is_announced_exactly_once():
    done = fresh_python("-c", WITHOUT_EXTENSION)
    assert done.returncode == 0, done.stderr


def test_a_missing_extension_still_computes():
    done = fresh_python("-c", 'import sys; sys.modules["torchdet._C"] = None\n' + CHECK)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("extension") >= 1


@pytest.mark.skipif(not torchdet._schemas.HAS_EXTENSION, reason="there is no extension to find")
@pytest.mark.parametrize("elsewhere", (False, True), ids=("nowhere", "installed"))
def test_a_source_folder_in_front_of_an_installation_is_named(elsewhere, tmp_path):
    """As in `python -m torchdet` inside a clone; the advice to reinstall would not help there."""
    package = Path(torchdet.__file__).parent
    clone, installation = tmp_path / "clone", tmp_path / "site-packages"
    shutil.copytree(package, clone / "torchdet", ignore=shutil.ignore_patterns("_C.*.so"))
    if elsewhere:
        shutil.copytree(package, installation / "torchdet")
    env = {k: v for k, v in os.environ.items() if k not in ("TORCHDET_EXTENSION", "PYTHONPATH")}
    # An editable installation, as this environment has, finds its extension from anywhere.
    start = (
        "import runpy, sys; "
        "sys.meta_path[:] = [x for x in sys.meta_path if 'editable' not in repr(x).lower()]; "
        "runpy.run_module('torchdet', run_name='__main__')"
    )
    env["PYTHONPATH"] = str(installation)
    done = support.python("-c", start, limit=LIMIT, cwd=clone, env=env)
    assert done.returncode == 0, done.stderr
    assert "plain PyTorch" in done.stdout
    text = " ".join(done.stderr.split())
    if elsewhere:
        assert f"imported from {clone / 'torchdet'}, a source folder" in text
        assert f"while {installation / 'torchdet'} has the extension" in text
        assert "reinstall" not in text
    elif "has the extension" not in text:  # the environment may have an installation of its own
        assert "reinstall" in text


def test_a_plain_import_computes():
    done = fresh_python("-c", CHECK)
    assert done.returncode == 0, done.stderr


def test_importing_needs_no_other_package_than_torch():
    """Neither a test package nor a compiler front end is pulled in by the import itself."""
    code = (
        "import torch, sys; before = set(sys.modules); import torchdet\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new & {'numpy', 'scipy', 'hypothesis', 'pytest', 'mpmath', 'matplotlib'}))"
    )
    done = fresh_python("-c", code)
    assert done.returncode == 0 and not done.stdout.strip(), done.stdout + done.stderr


@pytest.mark.parametrize("extension", ("", "0"), ids=("default", "reference"))
def test_the_module_prints_its_build(extension):
    environment = {"TORCHDET_EXTENSION": extension} if extension else {}
    done = fresh_python("-m", "torchdet", **environment)
    assert done.returncode == 0, done.stderr
    assert torchdet.__version__ in done.stdout
    assert "torch" in done.stdout
    if extension == "0":
        assert "reference" in done.stdout.lower() or "plain pytorch" in done.stdout.lower()


@pytest.mark.parametrize("extension", ("", "0"), ids=("default", "reference"))
def test_the_check_of_the_installed_build_succeeds(extension):
    environment = {"TORCHDET_EXTENSION": extension} if extension else {}
    done = fresh_python("-m", "torchdet", "check", **environment)
    assert done.returncode == 0, done.stdout + done.stderr
    for dtype in ("float32", "float64", "complex64", "complex128"):
        assert dtype in done.stdout, done.stdout


def test_a_torch_without_the_private_names_gets_the_same_derivatives():
    code = """
import torch, torchdet
from torch.func import grad, jvp, vmap
from torchdet import _torch_internals
assert _torch_internals.HAS_LEVELS is {levels}
f = lambda A: torchdet.slogdet(A)[1] + torchdet.det(A)
A = torch.arange(36.0).reshape(4, 3, 3).sin()
def hessian_product(A):
    return jvp(grad(lambda x: f(x).sum()), (A,), (A.cos(),))[1]
x = A.clone().requires_grad_()
(g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
(h,) = torch.autograd.grad((g * A.cos()).sum(), x)
for y in (f(A), vmap(grad(f))(A), hessian_product(A), vmap(hessian_product)(A), g, h):
    print(y.tolist())
"""
    seen = fresh_python("-c", code.format(levels=True))
    hidden = fresh_python("-c", code.format(levels=False), PYTHONPATH=str(HIDDEN))
    assert seen.returncode == hidden.returncode == 0, seen.stderr + hidden.stderr
    assert seen.stdout == hidden.stdout


def test_the_check_fails_when_a_gradient_is_wrong():
    code = """
import runpy, sys, torch
from torchdet._autograd_det import DetBackward
wrong = lambda grad, A: 2 * torch.ops.torchdet.det_backward(grad, A)
DetBackward.forward = staticmethod(wrong)
sys.argv = ["torchdet", "check"]
runpy.run_module("torchdet", run_name="__main__")
"""
    done = fresh_python("-c", code)
    assert done.returncode != 0, done.stdout


def test_an_unknown_command_is_refused():
    done = fresh_python("-m", "torchdet", "no-such-command")
    assert done.returncode not in (0, None)
    assert "check" in done.stderr + done.stdout


CAPABILITY = """
import random, torch, torchdet, torchdet._C
assert torchdet._C.build_info()["active_instruction_set"] == {name!r}
random.seed(0)
for n in (2, 3, 5, 9, 33):
    u = [random.randint(-4, 4) for _ in range(n - 1)] + [1]
    A = torch.eye(n, dtype=torch.float64)
    A[:, -1] = torch.tensor([*u[:-1], 0.0])
    # The last row is zero and the rest the identity: row i of the last column has cofactor -u_i.
    expected = torch.zeros_like(A)
    expected[-1] = torch.tensor([*(-x for x in u[:-1]), 1.0])
    assert torch.equal(torchdet.cofactor(A.expand(19, n, n)), expected.expand(19, n, n)), n
"""


@pytest.mark.skipif(
    not torchdet._schemas.HAS_EXTENSION, reason="the reference has no instruction sets"
)
@pytest.mark.parametrize("name", ("avx512", "avx2", "portable"))
def test_every_instruction_set_can_be_forced_and_is_right(name):
    result = fresh_python("-c", CAPABILITY.format(name=name), TORCHDET_CPU_CAPABILITY=name)
    if "TORCHDET_CPU_CAPABILITY to be one that this processor has" in result.stderr:
        pytest.skip(f"this processor has no {name}")
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(
    not torchdet._schemas.HAS_EXTENSION, reason="the reference has no instruction sets"
)
def test_an_unknown_instruction_set_is_an_error_that_names_those_at_hand():
    result = fresh_python("-c", "import torch, torchdet; torchdet.det(torch.eye(2))",
                    TORCHDET_CPU_CAPABILITY="mmx")  # fmt: skip
    assert result.returncode != 0
    assert "portable), got mmx" in result.stderr
