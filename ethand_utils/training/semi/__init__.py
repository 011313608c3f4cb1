"""Semi-supervised methods, a module each: how a net learns from unlabelled images beside pairs.

May import data, training and the ground.

A module is a method's name in `experiments.methods`, and its METHOD a subclass of `training.joint.JointTraining`. What
is named from a paper follows the public code beside it in the module, and says where it does not.
"""

import importlib
import pkgutil
import traceback
from collections.abc import Mapping
from pathlib import Path

from ethand_utils.exceptions import EthandError


def names() -> list[str]:
    """Return the names of the methods, without loading them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str):
    """Return the callback class of a method.

    Raises EthandError for a module that cannot be imported, or does not say which class it is; a SyntaxError as it is.
    """
    from ethand_utils.training.joint import JointTraining

    path = Path(__path__[0]) / f"{name}.py"
    try:
        module = importlib.import_module(f"{__name__}.{name}")
    except (SyntaxError, MemoryError):  # which `failures.failure_line` words
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        where = f"{path}, line {lines[-1]}" if lines else str(path)
        raise EthandError(f"{where}: {type(error).__name__}: {error}; mend the module, and start again") from error
    method = getattr(module, "METHOD", None)
    if not (isinstance(method, type) and issubclass(method, JointTraining)):
        fault = "has no METHOD" if method is None else f"METHOD is {method!r}"
        raise EthandError(
            f"{path}: {fault}; expected METHOD = the callback's class, a JointTraining, on the module's last line"
        )
    return method


def create(name: str, model, settings: Mapping[str, float]):
    """Create the callback that trains `model` by a method, with the values of `training.joint.SemiSettings`."""
    from ethand_utils.training.joint import SemiSettings

    return load(name)(model, SemiSettings(**settings))
