"""Semi-supervised methods, a module each: how a net learns from unlabelled images beside pairs.

May import data, training and the ground.

A module is a method's name in `experiments.methods`, and its METHOD a subclass of `training.joint.JointTraining`. What
is named from a paper follows the public code beside it in the module, and says where it does not.
"""

import importlib
import pkgutil
from collections.abc import Mapping

from ethand_utils.exceptions import EthandError


def names() -> list[str]:
    """Return the names of the methods, without loading them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(name: str):
    """Return the callback class of a method. Raises EthandError for a module that does not say which it is."""
    module = importlib.import_module(f"{__name__}.{name}")
    if not hasattr(module, "METHOD"):
        raise EthandError(f"{module.__file__}: has no METHOD; expected METHOD = the callback's class, on its last line")
    return module.METHOD


def create(name: str, model, settings: Mapping[str, float]):
    """Create the callback that trains `model` by a method, with the values of `training.joint.SemiSettings`."""
    from ethand_utils.training.joint import SemiSettings

    return load(name)(model, SemiSettings(**settings))
