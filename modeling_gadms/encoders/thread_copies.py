"""What lets several threads use one model."""

import copy

from ..modeling_gadms import GADMSModel


def with_own_modules(model: GADMSModel) -> GADMSModel:
    """The same weights in modules of their own.

    To score tokens or patches, hooks and weights in float32 hang on the modules for a while: a search in another
    thread would meet them there.
    """
    weights = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, weights)
