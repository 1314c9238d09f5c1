"""The parameters behind a name, whatever was done to it since the module was made."""

from __future__ import annotations

from torch import nn

# What torch.nn.utils.prune and its older weight_norm and spectral_norm put in a parameter's place.
_REPLACEMENTS = ("{}", "{}_orig", "{}_g", "{}_v")


def parameters_behind(module: nn.Module, name: str) -> list[nn.Parameter] | None:
    """The parameters that ``module.name`` is or is made from; none if it is a buffer.

    Returns:
        None where it is neither, as in FSDP without ``use_orig_params``, which leaves plain views of its own parameter.
    """
    parametrized = module._modules.get("parametrizations")
    if isinstance(parametrized, nn.ModuleDict) and name in parametrized:
        return list(parametrized[name].parameters())
    names = [replacement.format(name) for replacement in _REPLACEMENTS]
    found = [module._parameters[key] for key in names if module._parameters.get(key) is not None]
    return found if found or name in module._buffers else None  # type: ignore[return-value]
