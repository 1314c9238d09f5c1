"""Saving and loading models: folders and Hugging Face repositories."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    from huggingface_hub import PyTorchModelHubMixin
except ImportError:

    class PyTorchModelHubMixin:  # type: ignore[no-redef]
        """Stands in where huggingface_hub is not installed."""

        def __init_subclass__(cls, **kwargs: Any) -> None:
            super().__init_subclass__()

        def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(_MISSING)

        @classmethod
        def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
            raise ImportError(_MISSING)

        def push_to_hub(self, *args: Any, **kwargs: Any) -> None:
            raise ImportError(_MISSING)


_MISSING = "saving and loading model folders needs huggingface_hub and safetensors: pip install 'lyra-bio[app]'"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"
NO_ARGUMENTS = ("architectures", "dtype")  # entries of config.json beside the constructor's arguments


class PretrainedMixin(PyTorchModelHubMixin):
    """``save_pretrained`` and ``from_pretrained`` for a module with ``config`` and ``metadata`` dicts.

    A folder holds ``model.safetensors`` and ``config.json``: the constructor's arguments, ``metadata``
    (whatever the application stores beside the weights, such as the alphabet and the scaling of the
    targets), the class under ``architectures`` and the weights' ``dtype``. Parameters of state spaces are float32
    beside weights of 16 bits, and are saved and loaded so.

    ``from_pretrained(folder, dtype=torch.bfloat16)`` (or ``"bfloat16"``, or Transformers' older ``torch_dtype=``) loads
    into another dtype than the folder's ("auto" or None), ``device=`` or ``map_location=`` onto a device.
    """

    config: dict[str, Any]
    metadata: dict[str, Any]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # The mixin's __new__ takes anything, and where a class inherits both, older Pythons, such as 3.11.2, tell the
        # signature of that: torch.nn.utils.skip_init would find no device in it.
        _, *parameters = inspect.signature(cls.__init__).parameters.values()
        cls.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]

    def _save_pretrained(self, save_directory: Path) -> None:
        assert isinstance(self, nn.Module)
        super()._save_pretrained(save_directory)
        dtype = str(next(self.parameters()).dtype).removeprefix("torch.")
        content = {
            "architectures": [type(self).__name__],
            "dtype": dtype,
            **self.config,
            "metadata": self.metadata,
        }
        text = json.dumps(content, indent=2, allow_nan=False)
        (save_directory / CONFIG).write_text(text + "\n", encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        map_location: str | torch.device = "cpu",
        device: str | torch.device | int | None = None,
        dtype: str | torch.dtype | None = None,
        torch_dtype: str | torch.dtype | None = None,
        strict: bool = True,
        config: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> Any:
        """The hook by which the mixin's ``from_pretrained`` builds the model, with every weight required."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        if config is None:
            raise ValueError(f"{model_id} is not a saved model: it has no {CONFIG}")
        chosen = _subclass_named(cls, config, model_id)
        if os.path.isdir(model_id):
            weights = os.path.join(model_id, WEIGHTS)
            if not os.path.isfile(weights):
                raise ValueError(f"{model_id} is not a saved model: it has no {WEIGHTS}")
        else:
            from huggingface_hub import hf_hub_download

            weights = hf_hub_download(
                model_id,
                WEIGHTS,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
            )
        # The mixin hands on those of config.json's entries that `cls` has for arguments, which may not be all of the
        # subclass's; dtype among them may be the one of the folder.
        saved = config.get("dtype", "float32")
        wanted = _dtype("dtype", saved if dtype in (None, "auto") else dtype)
        if torch_dtype is not None:
            wanted = _dtype("torch_dtype", saved if torch_dtype == "auto" else torch_dtype)
        saved_arguments = {name: value for name, value in config.items() if name not in NO_ARGUMENTS}
        given = {name: value for name, value in arguments.items() if name not in NO_ARGUMENTS}
        model = chosen(**saved_arguments | given).to(wanted)
        try:
            state = load_file(weights)
        except SafetensorError as error:
            raise ValueError(f"{weights} is damaged: {error}") from None
        model.load_state_dict(state, strict=strict)
        return model.to(map_location if device is None else device).eval()


def _dtype(name: str, value: str | torch.dtype) -> torch.dtype:
    """A floating-point dtype by itself or by its name, with or without "torch."."""
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"{name} must be a floating-point dtype such as torch.bfloat16 or 'bfloat16', got {value!r}")
    return found


def _subclass_named(cls: type, config: Mapping[str, Any], model_id: str) -> type:
    """``cls`` or the subclass of it that the folder was saved from."""
    name = (config.get("architectures") or [cls.__name__])[0]
    classes: list[type] = [cls]
    for each in classes:
        classes += each.__subclasses__()
    known = {each.__name__: each for each in classes}
    if name not in known:
        raise ValueError(f"{model_id} holds a {name}, which {cls.__name__} cannot load")
    return known[name]
