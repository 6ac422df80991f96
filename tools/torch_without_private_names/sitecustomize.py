"""With this folder on PYTHONPATH torchdet finds a torch whose private names are not there.

Only torchdet/_torch_internals.py looks for them, and only the names that it can do without are
hidden: those it imports from a private module of torch. Everything else of torch stays as it is.
"""

import builtins

_import = builtins.__import__


def _without_private_names(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__")
    hidden = any(part.startswith("_") for part in name.split(".")[1:])
    if importer == "torchdet._torch_internals" and name.startswith("torch.") and hidden:
        raise ImportError(f"{name} is hidden from torchdet")
    return _import(name, globals, locals, fromlist, level)


builtins.__import__ = _without_private_names
