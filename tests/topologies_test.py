"""Names of slices and cards, and what their devices say of themselves."""

import pytest

from gdsd_jax import chips, topologies


# as Google Cloud's documentation of TPU versions lists them
@pytest.mark.parametrize(
    "name, shape",
    [
        ("v5litepod-1", "v5e:1x1"),
        ("v5litepod-8", "v5e:2x4"),
        ("v5litepod-16", "v5e:4x4"),
        ("v5litepod-128", "v5e:8x16"),
        ("v6e-4", "v6e:2x2"),
        ("v6e-16", "v6e:4x4"),
        ("v4-8", "v4:2x2x1"),
        ("v5p-8", "v5p:2x2x1"),
        ("v5p-32", "v5p:2x2x4"),
        ("v5p-64", "v5p:2x4x4"),
        ("v5p-512", "v5p:4x8x8"),
        ("v5p-24", "v5p-24"),  # no power of two: by its shape
        ("v5e:4x4", "v5e:4x4"),
    ],
)
def test_slices_go_by_their_names_on_google_cloud(name, shape):
    assert topologies.sliced(name) == shape


@pytest.mark.parametrize(
    "card, gigabytes, capability",
    [("a100", 80, "8.0"), ("h100", 80, "9.0"), ("h200", 141, "9.0"), ("b200", 180, "10.0")],
)
def test_gpus_are_what_they_are_called(compiler, monkeypatch, card, gigabytes, capability):
    """Of their memory a program gets the share that jax is told to take."""
    compiler(f"{card}:8")
    devices = topologies.devices(f"{card}:2x8")
    assert [device.process_index for device in devices] == 8 * [0] + 8 * [1]
    assert {device.compute_capability for device in devices} == {capability}
    for name in chips.FRACTIONS:
        monkeypatch.delenv(name, raising=False)
    assert chips.memory_of(devices[0]) == pytest.approx(0.75e9 * gigabytes, rel=0.08)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".9")
    assert chips.memory_of(devices[0]) == pytest.approx(0.9e9 * gigabytes, rel=0.08)
    monkeypatch.delenv("XLA_PYTHON_CLIENT_MEM_FRACTION")
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".5")
    assert chips.memory_of(devices[0]) == pytest.approx(0.5e9 * gigabytes, rel=0.08)


@pytest.mark.parametrize("name", ["h100:0", "h100:12", "h100:0x8", "b200:2x16"])
def test_hosts_have_at_most_eight_gpus(name):
    with pytest.raises(ValueError, match=f"^--topology={name}: a host has 1 to 8 of these GPUs"):
        topologies.devices(name)


@pytest.mark.parametrize("share", ["abc", "", "0", "-1", "nan", "inf"])
def test_a_share_of_memory_that_is_none_is_named(monkeypatch, share):
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", share)
    with pytest.raises(ValueError, match=f"^XLA_PYTHON_CLIENT_MEM_FRACTION={share} in the env"):
        topologies.devices("h100:8")
