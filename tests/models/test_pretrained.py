"""Saving and loading: folders, plain state_dicts of the published models, and what is no model."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import lyra_kernels as lk
from lyra import Lyra, LyraForTokenClassification

from .. import fixtures

pytest.importorskip("huggingface_hub")
pytest.importorskip("safetensors")

METADATA = {"alphabet": "ACDEF", "target": {"mean": 1.5, "std": 0.25}, "classes": ["no", "ja", "ß"]}
SMALL = {"d_input": 5, "d_model": 8, "num_s4_layers": 1, "d_state": 4}


@pytest.mark.parametrize("kind", [Lyra, LyraForTokenClassification])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pgc_expansion": (0.25, 2.0), "pgc_residual": False, "pgc_dropout": 0.0, "final_norm": False},
        {"pool": "max", "prenorm": False, "s4_lr": 0.0, "causal": True, "pgc_kernel_size": 4},
        {"bidirectional": True, "algorithm": "fft", "s4_lr": None, "num_pgc_layers": 0},
    ],
    ids=["plain", "paper", "causal", "bidirectional"],
)
def test_round_trip(tmp_path, kind, options):
    model = kind(**SMALL, d_output=2, **options, metadata=METADATA).eval()
    model.save_pretrained(tmp_path / "model")
    twin = Lyra.from_pretrained(tmp_path / "model")
    assert type(twin) is kind and not twin.training
    assert twin.config == json.loads(json.dumps(model.config)) and twin.metadata == METADATA
    ids = torch.randint(5, (3, 9))
    assert torch.equal(twin(ids), model(ids))
    assert {k: v.shape for k, v in twin.state_dict().items()} == {k: v.shape for k, v in model.state_dict().items()}


def test_what_the_folder_holds(tmp_path):
    Lyra(**SMALL, metadata=METADATA).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Lyra"] and config["dtype"] == "float32"
    assert config["metadata"] == METADATA and config["d_state"] == 4
    assert (tmp_path / "model.safetensors").is_file()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_dtype_is_kept(tmp_path, dtype):
    model = Lyra(**SMALL).to(dtype)
    model.save_pretrained(tmp_path)
    twin = Lyra.from_pretrained(str(tmp_path))
    for key, value in model.state_dict().items():
        assert twin.state_dict()[key].dtype == value.dtype and torch.equal(twin.state_dict()[key], value)
    assert twin.encoder.weight.dtype == dtype
    assert twin.s4_layers[0].kernel.C.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("saved", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "option, dtype",
    [({"dtype": torch.bfloat16}, torch.bfloat16), ({"torch_dtype": "float16"}, torch.float16),
     ({"dtype": "auto"}, None), ({"torch_dtype": "auto"}, None),
     ({"dtype": "torch.float64"}, torch.float64), ({"torch_dtype": torch.float32, "device": "cpu"}, torch.float32)],
    ids=str,
)  # fmt: skip
def test_dtype_on_loading(tmp_path, saved, option, dtype):
    """State spaces keep the bits that they were saved with, also by way of 16 bits; the rest gets the dtype."""
    model = Lyra(**SMALL).to(saved)
    model.save_pretrained(tmp_path)
    twin = Lyra.from_pretrained(tmp_path, **option)
    dtype = saved if dtype is None else dtype
    assert twin.encoder.weight.dtype == twin.s4_layers[0].D.dtype == dtype
    assert torch.equal(twin.encoder.weight, model.encoder.weight.to(dtype))
    for name, value in model.s4_layers[0].kernel.named_parameters():
        found = twin.s4_layers[0].kernel.get_parameter(name)
        assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.equal(found.float(), value)
    twin.save_pretrained(tmp_path / "again")
    config = json.loads((tmp_path / "again" / "config.json").read_text(encoding="utf-8"))
    assert config["dtype"] == str(dtype).removeprefix("torch.") and "device" not in config
    assert "dtype" not in twin.config and "device" not in twin.config


@pytest.mark.parametrize("option", [{"dtype": "bf16"}, {"torch_dtype": torch.int64}, {"dtype": 16}], ids=str)
def test_what_is_no_dtype(tmp_path, option):
    Lyra(**SMALL).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"{next(iter(option))} must be a floating-point dtype such as"):
        Lyra.from_pretrained(tmp_path, **option)


def test_folder_whose_state_spaces_are_16_bits(tmp_path):
    """As versions before this one saved them."""
    from safetensors.torch import load_file, save_file

    model = Lyra(**SMALL, s4_lr=0.0).bfloat16()
    model.save_pretrained(tmp_path)
    state = {key: value.bfloat16() for key, value in load_file(tmp_path / "model.safetensors").items()}
    save_file(state, tmp_path / "model.safetensors")
    kernel = Lyra.from_pretrained(tmp_path).s4_layers[0].kernel
    for name in ("log_dt", "log_A_real", "A_imag", "C"):
        assert torch.equal(getattr(kernel, name), state[f"s4_layers.0.kernel.{name}"].float())
    kernel = Lyra.from_state_dict(state).s4_layers[0].kernel
    assert kernel.log_dt.dtype == kernel.C.dtype == torch.float32


def test_marks_of_learning_rates_are_kept(tmp_path):
    Lyra(**SMALL, s4_lr=0.007).save_pretrained(tmp_path)
    assert Lyra.from_pretrained(tmp_path).s4_layers[0].kernel.log_dt._optim == {"weight_decay": 0.0, "lr": 0.007}


def test_token_classifier_is_not_loaded_as_another_class(tmp_path):
    LyraForTokenClassification(**SMALL).save_pretrained(tmp_path / "tokens")
    Lyra(**SMALL).save_pretrained(tmp_path / "one")
    assert isinstance(LyraForTokenClassification.from_pretrained(tmp_path / "tokens"), LyraForTokenClassification)
    with pytest.raises(ValueError, match="holds a Lyra, which LyraForTokenClassification cannot load"):
        LyraForTokenClassification.from_pretrained(tmp_path / "one")


def _broken(tmp_path, how: str):
    folder = tmp_path / "model"
    Lyra(**SMALL).save_pretrained(folder)
    config = folder / "config.json"
    if how == "no-config":
        config.unlink()
    elif how == "no-weights":
        (folder / "model.safetensors").unlink()
    elif how == "other-class":
        config.write_text(config.read_text().replace('"Lyra"', '"Bert"'))
    elif how == "other-shape":
        config.write_text(config.read_text().replace('"d_model": 8', '"d_model": 6'))
    elif how == "truncated":
        weights = folder / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-40])
    return folder


BROKEN = {
    "no-config": (ValueError, "is not a saved model: it has no config.json"),
    "no-weights": (ValueError, "is not a saved model: it has no model.safetensors"),
    "other-class": (ValueError, "holds a Bert, which Lyra cannot load"),
    "other-shape": (RuntimeError, "size mismatch for encoder.weight"),
    "truncated": (ValueError, "model.safetensors is damaged"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_folders(tmp_path, how):
    error, message = BROKEN[how]
    with pytest.raises(error, match=message):
        Lyra.from_pretrained(_broken(tmp_path, how))


def test_metadata_that_json_cannot_hold(tmp_path):
    model = Lyra(**SMALL, metadata={"a": object()})
    with pytest.raises((TypeError, ValueError)):
        model.save_pretrained(tmp_path)
    assert not (tmp_path / "config.json").exists()


# ---- plain state_dicts -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["lyra_regression", "lyra_token_classification"])
@pytest.mark.parametrize("wrapped", [None, "state_dict", "model_state_dict"])
def test_published_state_dicts(tmp_path, name, wrapped):
    """Loaded from a file by weights_only, under the keys that trainers use, in the dtype that it has."""
    recorded = fixtures.load(name)
    kind = {"Lyra": Lyra, "LyraForTokenClassification": LyraForTokenClassification}[recorded.meta["cls"]]
    content = {wrapped: recorded.state, "epoch": 3} if wrapped else recorded.state
    torch.save(content, tmp_path / "model.pt")
    for source in (tmp_path / "model.pt", str(tmp_path / "model.pt"), content):
        model = kind.from_state_dict(source)
        assert type(model) is kind and not model.training
        torch.testing.assert_close(model(recorded.x), recorded.y, rtol=1e-10, atol=1e-10)
        for key in ("d_input", "d_model", "d_output", "num_pgc_layers", "num_s4_layers", "d_state"):
            assert model.config[key] == recorded.meta.get(key, model.config[key])


def theirs(state):
    """The names of the authors' repository for a state_dict of the paper's model, and their copies of its weights."""
    names = {"pgc_layers.0.": "pgc1.", "pgc_layers.1.": "pgc2.", "s4_layers.0.": "s4d.", "norms.0.": "norm."}
    renamed = {}
    for key, value in state.items():
        for ours, name in names.items():
            key = key.replace(ours, name)
        renamed[key] = value
    copies = ("pgc1.flash_conv.weights", "pgc2.flashfftconv.f_32_fft", "flashfftconv.twiddle_factors_fft_16_256")
    return renamed | {key: torch.zeros(3) for key in copies}


def test_state_dict_of_the_papers_model():
    """The authors' own names, and their second copy of the convolution's weights."""
    model = Lyra.paper(5, 2, d_model=8, d_state=4).eval()
    twin = Lyra.from_state_dict(theirs(model.state_dict()))
    assert twin.config["pgc_expansion"] == [0.25, 2.0] and not twin.config["pgc_residual"]
    ids = torch.randint(5, (2, 9))
    assert torch.equal(twin(ids), model(ids))


class Scaled(nn.Module):
    """A norm as the authors' PGC has it."""

    def __init__(self, weight):
        super().__init__()
        self.scale = nn.Parameter(weight)

    def forward(self, x):
        return self.scale * x / (x.square().mean(-1, keepdim=True).sqrt() + 1e-8)


@pytest.mark.parametrize("size", [1.0, 1e-4])
@pytest.mark.parametrize("last", [Scaled, nn.RMSNorm])
def test_norms_of_the_authors_models(tmp_path, last, size):
    """Under the name ``scale`` with eps beside the root; the last one may be torch's, with torch's default eps."""
    model = Lyra.paper(5, 2, d_model=8, d_state=4).double().eval()
    for norm in (m for m in model.modules() if isinstance(m, lk.RMSNorm)):
        nn.init.uniform_(norm.weight, 0.5, 2.0)
    for layer in model.pgc_layers:
        nn.init.zeros_(layer.in_proj.bias)
        layer.in_proj.weight.data *= size  # so that eps matters
        layer.in_norm, layer.out_norm = Scaled(layer.in_norm.weight.data), Scaled(layer.out_norm.weight.data)
    weight = model.norms[0].weight.data
    model.norms[0] = Scaled(weight) if last is Scaled else nn.RMSNorm(8, dtype=torch.float64)
    with torch.no_grad():
        next(model.norms[0].parameters()).copy_(weight)
    state = theirs(model.state_dict())
    assert any(key.endswith("in_norm.scale") for key in state)
    twin = Lyra.from_state_dict(state)
    ids = torch.randint(5, (2, 9))
    torch.testing.assert_close(twin(ids), model(ids), rtol=1e-6 / size, atol=1e-7)
    twin.save_pretrained(tmp_path)
    assert torch.equal(Lyra.from_pretrained(tmp_path)(ids), twin(ids))
    assert twin.norms[0].eps == (1e-16 if last is Scaled else torch.finfo(torch.float64).eps)
    assert Lyra.from_state_dict({k: v.float() for k, v in state.items()}, norm_eps=1e-3).norms[0].eps == 1e-3


@pytest.mark.parametrize("inner, d_model", [(1, 3), (5, 7), (10, 8), (83, 64), (29, 31), (41, 100)])
def test_expansion_is_found_again(inner, d_model):
    state = Lyra(4, d_model, num_s4_layers=0, num_pgc_layers=1, pgc_expansion=(inner + 0.5) / d_model).state_dict()
    twin = Lyra.from_state_dict(state)
    assert twin.pgc_layers[0].d_inner == inner


def test_options_that_shapes_do_not_tell():
    model = Lyra(**SMALL, pool="max", prenorm=False).eval()
    twin = Lyra.from_state_dict(model.state_dict(), pool="max", prenorm=False)
    x = torch.randn(2, 9, 5)
    assert torch.equal(twin(x), model(x))


def test_files_that_are_no_model(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="expected a state_dict, the file holds a list"):
        Lyra.from_state_dict(tmp_path / "list.pt")
    with pytest.raises(
        ValueError, match=r"not the state_dict of a Lyra model: encoder.weight is missing, it has weight"
    ):
        Lyra.from_state_dict(nn.Linear(2, 2).state_dict())
    with pytest.raises(ValueError, match=r"encoder.weight is missing, it has nothing"):
        Lyra.from_state_dict({})
    state = Lyra(**SMALL).state_dict()
    del state["s4_layers.0.D"]
    with pytest.raises(RuntimeError, match=r"Missing key.*s4_layers.0.D"):
        Lyra.from_state_dict(state)


class Malicious:
    """Pickled, it would run code when loaded."""

    def __reduce__(self):
        return (exec, ("raise AssertionError('code from a file was run')",))


def test_nothing_in_a_file_is_executed(tmp_path):
    torch.save({"encoder.weight": Malicious()}, tmp_path / "evil.pt")
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        Lyra.from_state_dict(tmp_path / "evil.pt")
