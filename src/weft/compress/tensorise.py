"""Write the maps of a dense model as matrix products: exactly, or with smaller bonds and an error that is told."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from weft.config import MapConfig
from weft.errors import UserError
from weft.layers.maps import StructuredMap
from weft.layers.matrix_product import MatrixProduct
from weft.model import WeftModel
from weft.pretrained import assign


@torch.no_grad()
def tensorise_maps(model: WeftModel, how: MapConfig) -> tuple[WeftModel, dict[str, float]]:
    """Return ``model`` with matrix products as ``how`` says, and the relative error of each map (Frobenius norm).

    Raises UserError where the model has structured maps already.
    """
    if any(isinstance(part, StructuredMap) for part in model.modules()):
        raise UserError("This model's maps are not all dense: run weft merge first.")
    how = how.changed(kind="matrix_product")
    blocks = tuple(block.changed(**dict.fromkeys(block.all_maps, how)) for block in model.config.blocks)
    with torch.device("meta"):  # takes no memory: it is given its parameters below
        products = WeftModel(model.config.with_blocks(blocks))
    dense = dict(model.named_modules())
    tensors: dict[str, Tensor] = {name: parameter.detach() for name, parameter in model.named_parameters()}
    errors = {}
    for name, part in list(products.named_modules()):
        if isinstance(part, MatrixProduct):
            part.to_empty(device="cpu")
            part.initialise(1.0)  # the adapter, if there is one
            errors[name] = part.approximate_(weight_of(dense[name]))
            # The factors take the place of the matrix; the bias is the dense map's.
            del tensors[f"{name}.weight"]
            for key, x in part.named_parameters():
                if key != "bias":
                    tensors[f"{name}.{key}"] = x.detach()
    assign(products, tensors)
    return products.eval(), errors


def weight_of(part: nn.Module) -> Tensor:
    """Return the matrix of a dense map."""
    assert isinstance(part, nn.Linear)
    return part.weight
