"""Copies of a model that share its weights, so that several threads can use one model."""

import copy
from typing import TypeVar

from torch import nn


Model = TypeVar("Model", bound=nn.Module)


def copy_sharing_weights(model: Model) -> Model:
    """Copy the modules of a model, but not its weights.

    Token and patch scoring attach hooks to modules and replace their weights with float32 ones for a moment. On the
    original modules this would affect a search in another thread.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)
