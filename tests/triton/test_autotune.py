"""The choice between configurations, with a card and a clock that are stood in for."""

from __future__ import annotations

import json

import pytest
import torch
from triton.runtime.errors import OutOfResources

from lyra_kernels.backends.triton import IMPLEMENTATIONS, _autotune, _launch, causal_conv, gelu_glu

ENABLED = _autotune.enabled
SLOW, FAST = _launch.Config({"X": 1}, 4), _launch.Config({"X": 2}, 8)


class _Card:
    """Times configurations by a table, counts the timings, and runs kernels that do nothing."""

    def __init__(self, milliseconds):
        self.milliseconds, self.running, self.timed, self.launched = milliseconds, None, [], []

    def seconds(self, run):
        run()
        self.timed.append(self.running)
        return self.milliseconds[self.running]

    def kernel(self, name="a_kernel"):
        def run(x, L, X, P, *, num_warps, num_stages):
            self.running = X
            self.launched.append(X)
            if self.milliseconds[X] is None:
                raise OutOfResources(200, 100, "shared memory")

        class Kernel:
            __name__ = name
            arg_names = ("x", "L", "X", "P")

            def __getitem__(self, grid):
                return run

        return Kernel()


@pytest.fixture
def card(monkeypatch, tmp_path):
    """A card on which the second configuration is the faster; its cache folder is empty."""
    found = _Card({1: 2.0, 2: 1.0})
    monkeypatch.setenv("LYRA_CACHE", str(tmp_path))
    monkeypatch.setenv("LYRA_AUTOTUNE", "1")
    monkeypatch.setattr(_autotune, "_known", {})
    monkeypatch.setattr(_autotune, "seconds", found.seconds)
    monkeypatch.setattr(_autotune, "enabled", lambda device: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "A Card, 80GB")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    return found


def _launched(card, length, kernel=None):
    card.launched.clear()
    args = {"x": torch.zeros(1), "L": length}
    _launch.launch(kernel or card.kernel(), lambda c: (1,), args, {"P": "tf32"}, [SLOW, FAST])
    return card.launched[-1]


def test_the_faster_is_taken_and_timed_once(card):
    assert _launched(card, 100) == 2 and card.timed == [1, 2]
    assert _launched(card, 100) == 2 and card.timed == [1, 2] and card.launched == [2]


def test_new_lengths_are_timed_once_a_power_of_2(card):
    for length in range(65, 129):
        _launched(card, length)
    assert len(card.timed) == 2
    _launched(card, 129)
    assert len(card.timed) == 4


def test_other_types_constants_and_kernels_are_others():
    def key(name="k", x=torch.zeros(1), L=5, y=None, eps=1e-8, P=1):  # noqa: B008 (nobody changes it)
        return _autotune.key(name, {"x": x, "L": L, "y": y, "eps": eps}, {"P": P})

    first = key()
    assert first == key(x=torch.zeros(9), L=8, eps=1e-5)
    for other in (key(x=torch.zeros(1).half()), key(L=9), key(y=torch.zeros(1)), key(P=2), key("l")):
        assert other != first


def test_another_process_reads_the_choice(card, monkeypatch, tmp_path):
    _launched(card, 100)
    (file,) = tmp_path.iterdir()  # nothing temporary is left
    assert file.name.startswith("autotune-a_card_80gb-triton-") and list(json.loads(file.read_text()).values())
    monkeypatch.setattr(_autotune, "_known", {})
    assert _launched(card, 100) == 2 and card.timed == [1, 2]


def test_what_another_process_wrote_meanwhile_is_kept(card, tmp_path):
    _launched(card, 100)
    (file,) = tmp_path.iterdir()
    file.write_text(json.dumps({**json.loads(file.read_text()), "theirs": "x"}))
    _launched(card, 1000)
    assert len(json.loads(file.read_text())) == 3


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 1', '{"a": 5}'])
def test_a_spoiled_file_is_written_anew(card, tmp_path, content):
    _autotune.file(torch.device("cpu")).write_text(content)
    assert _launched(card, 100) == 2
    assert len(json.loads(_autotune.file(torch.device("cpu")).read_text())) == 1


def test_a_folder_that_cannot_be_written_to(card, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LYRA_CACHE", str(tmp_path / "file" / "folder"))
    assert _launched(card, 100) == 2 and _launched(card, 100) == 2 and card.timed == [1, 2]


def test_a_choice_that_no_longer_exists_is_made_anew(card):
    path = _autotune.file(torch.device("cpu"))
    path.write_text(
        json.dumps({_autotune.key("a_kernel", {"x": torch.zeros(1), "L": 100}, {"P": "tf32"}): "Config(gone)"})
    )
    assert _launched(card, 100) == 2 and card.timed == [1, 2]


def test_what_does_not_fit_is_not_chosen(card):
    card.milliseconds[2] = None
    assert _launched(card, 100) == 1 and card.timed == [1]
    card.milliseconds[1] = None
    with pytest.raises(OutOfResources):
        _launched(card, 10_000)


@pytest.mark.parametrize("why", ["a processor", "nobody asked", "deterministic algorithms", "LYRA_AUTOTUNE=0", None])
def test_when_nothing_is_timed(why, monkeypatch):
    monkeypatch.setenv("LYRA_AUTOTUNE", "0" if why == "LYRA_AUTOTUNE=0" else "1")
    if why == "nobody asked":
        monkeypatch.delenv("LYRA_AUTOTUNE")
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: why == "deterministic algorithms")
    assert _autotune.enabled(torch.device("cpu" if why == "a processor" else "cuda")) == (why is None)


def test_a_first_call_costs_nothing(card, monkeypatch, tmp_path):
    """Unless asked, a launch takes the first configuration: nothing is timed, read or written, whatever was before."""
    assert _launched(card, 100) == 2 and card.timed == [1, 2]
    monkeypatch.delenv("LYRA_AUTOTUNE")
    monkeypatch.setattr(_autotune, "enabled", lambda device: ENABLED(torch.device("cuda")))
    monkeypatch.setattr(_autotune, "_read", lambda path: pytest.fail("read"))
    monkeypatch.setattr(_autotune, "_known", {})
    assert _launched(card, 100) == 1 and card.launched == [1] and card.timed == [1, 2]


@pytest.mark.parametrize("value", ["", "yes", "2"])
def test_what_the_variable_may_be(value, monkeypatch):
    monkeypatch.setenv("LYRA_AUTOTUNE", value)
    with pytest.raises(ValueError, match=f"LYRA_AUTOTUNE must be 0 or 1, not {value!r}"):
        _autotune.enabled(torch.device("cuda"))


@pytest.mark.parametrize(
    ("rows", "tiles", "first"),
    [(16, 1000, [16]), (17, 1, [16, 32]), (64, 1, [16, 32]), (64, 4, [32, 16]), (1024, 64, [32, 16])],
)
def test_what_a_card_is_given_untimed(rows, tiles, first):
    """Of causal_conv's configurations, on a card of 132 processors: the larger where it is full."""
    assert [c.blocks["BLOCK_R"] for c in causal_conv.configurations(rows, tiles, 64, 132)] == first


def test_a_capture_takes_what_is_known(card, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _launched(card, 100) == 1 and not card.timed
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    _launched(card, 100)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert _launched(card, 100) == 2 and card.launched == [2]


def test_one_configuration_asks_nothing(monkeypatch):
    monkeypatch.setattr(_autotune, "enabled", lambda device: pytest.fail("asked"))
    card = _Card({1: 1.0})
    args = {"x": torch.zeros(1), "L": 1}
    _launch.launch(card.kernel(), lambda c: (1,), args, {"P": "tf32"}, [SLOW])
    assert card.launched == [1]


def test_every_configuration_gives_the_same(device, monkeypatch):
    y, weight, residual = (torch.randn(n, device=device) for n in ((1, 70, 48), (96, 48), (1, 70, 48)))
    choices = gelu_glu.configurations(48, backward=False)
    found = []
    for config in choices:
        monkeypatch.setattr(gelu_glu, "configurations", lambda *_, config=config, **__: [config])
        found.append(IMPLEMENTATIONS["gelu_glu"](y, weight, None, None, residual, None, None))
    assert len(found) == 2 and torch.equal(*found)
    u, taps = torch.randn(40, 33, 1, device=device), torch.randn(1, 33, device=device)
    found = []
    for config in (causal_conv.CONFIG, causal_conv.MANY):
        monkeypatch.setattr(causal_conv, "CONFIG", config)
        monkeypatch.setattr(causal_conv, "MANY", config)
        found.append(IMPLEMENTATIONS["causal_conv"](u, taps, None, None, None, None))
    assert torch.equal(*found)
