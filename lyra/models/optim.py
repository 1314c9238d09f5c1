"""Parameter groups for any optimizer of ``torch.optim``."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """The model's trainable parameters, grouped by the options that each asks for.

    A parameter may carry a dict ``_optim`` with options of its own, as S4D's ``log_dt``, ``log_A_real`` and
    ``A_imag`` do: no weight decay and mostly a smaller learning rate. Optimizers do not look at it
    by themselves.

    Args:
        model: any module.
        lr: learning rate of the parameters that ask for none.
        weight_decay: weight decay of the parameters that ask for none.

    Returns:
        groups with ``params``, ``lr``, ``weight_decay`` and whatever else ``_optim`` holds; first the
        parameters without ``_optim``. None is empty.

    Example:
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, lr=4e-3, weight_decay=0.01))
    """
    groups: dict[tuple, dict[str, Any]] = {(): {"params": [], "lr": lr, "weight_decay": weight_decay}}
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        options = getattr(parameter, "_optim", None) or {}
        group = groups.setdefault(
            tuple(sorted(options.items())),
            {"params": [], "lr": lr, "weight_decay": weight_decay, **options},
        )
        group["params"].append(parameter)
    return [group for group in groups.values() if group["params"]]
