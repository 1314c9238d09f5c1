"""Parameter groups for any optimizer of ``torch.optim``."""

from __future__ import annotations

from typing import Any

from torch import nn

from lyra_kernels.layers.parameters import parameters_behind


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """The model's trainable parameters, grouped by the options that each asks for.

    A module may have a method ``parameter_options()``, which gives options by the names of its parameters, as
    :class:`S4DKernel` does for ``log_dt``, ``log_A_real`` and ``A_imag``: no weight decay and mostly a smaller learning
    rate. Whatever is behind such a name has them: parameters that were replaced, copied, sharded (``fully_shard``, FSDP
    with ``use_orig_params=True``), pruned or parametrized. Other parameters may carry a dict ``_optim``, as in the
    published code. Optimizers look at neither by themselves.

    Args:
        model: any module, wrapped (DDP, FSDP, ``torch.compile``) or not. Sharding comes before the groups.
        lr: learning rate of the parameters that ask for none.
        weight_decay: weight decay of the parameters that ask for none.

    Returns:
        groups with ``params``, ``lr``, ``weight_decay`` and whatever else was asked for; first the
        parameters that ask for nothing. None is empty, and a parameter is in one of them once.

    Raises:
        ValueError: a name has no parameter behind it any more, or two modules that share a parameter ask for different
            options.

    Example:
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, lr=4e-3, weight_decay=0.01))
    """
    asked = _asked_by_modules(model)
    groups: list[tuple[dict[str, Any], list[nn.Parameter]]] = [({}, [])]
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        options = asked.get(id(parameter), getattr(parameter, "_optim", None)) or {}
        members = next((params for others, params in groups if others == options), None)
        if members is None:
            groups.append((options, members := []))
        members.append(parameter)
    defaults = {"lr": lr, "weight_decay": weight_decay}
    return [{"params": params, **defaults, **options} for options, params in groups if params]


def _asked_by_modules(model: nn.Module) -> dict[int, dict[str, Any]]:
    """The options that modules ask for, by their parameters' ids."""
    asked: dict[int, dict[str, Any]] = {}
    for path, module in model.named_modules():
        # Asked of the class: wrappers such as FSDP have the attributes of what they wrap, but not its parameters.
        ask = getattr(type(module), "parameter_options", None)
        if ask is None:
            continue
        for name, options in ask(module).items():
            where = f"{path}.{name}".lstrip(".")
            parameters = parameters_behind(module, name)
            if parameters is None:
                raise ValueError(
                    f"{where} is no parameter or buffer any more, so that it cannot have options of its own. FSDP "
                    f"leaves none without use_orig_params=True: give it that, or shard with fully_shard. If it is not "
                    f"to be trained, make it a buffer"
                )
            for parameter in parameters:
                if asked.setdefault(id(parameter), options) != options:
                    raise ValueError(
                        f"{where} asks for {options}, another module that shares it for {asked[id(parameter)]}"
                    )
    return asked
