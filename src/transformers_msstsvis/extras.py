"""The libraries that only parts of the package need, and how to install them."""

from importlib.util import find_spec

EXTRAS = {
    "accelerate": "train",
    "datasets": "train",
    "evaluate": "train",
    "yaml": "train",
    "gradio": "demo",
    "datatrove": "bulk",
    "onnx": "export",
    "onnxscript": "export",
    "trackeval": "tracking",
}


def require(*modules: str) -> None:
    """
    Check that modules are installed before they are used.

    Raises:
        ModuleNotFoundError: one is not; the message names the extra to install.
    """
    for module in modules:
        if find_spec(module) is None:
            raise explain_missing(ModuleNotFoundError(f"No module named {module!r}", name=module))


def explain_missing(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error with the extra to install in its message, if an extra has the module."""
    module = (error.name or "").split(".")[0]
    if module not in EXTRAS or "pip install" in str(error):
        return error
    how = f'pip install "transformers_msstsvis[{EXTRAS[module]}]"'
    return ModuleNotFoundError(f"the library {module} is missing; install it with: {how}", name=error.name)
