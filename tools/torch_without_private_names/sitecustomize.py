"""With this folder on PYTHONPATH torchdet finds a torch whose private names are not there.

Only torchdet/_torch_internals.py and _torch_modes.py look for them, and only the names that these
can do without are hidden: those they import from a private module of torch. Everything else of
torch stays as it is.
"""

import builtins

_IMPORTERS = ("torchdet._torch_internals", "torchdet._torch_modes")
_import = builtins.__import__


def _without_private_names(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__")
    hidden = any(part.startswith("_") for part in name.split(".")[1:])
    if importer in _IMPORTERS and name.startswith("torch.") and hidden:
        raise ImportError(f"{name} is hidden from torchdet")
    return _import(name, globals, locals, fromlist, level)


builtins.__import__ = _without_private_names
