"""Attention kernels against XLA's: interpreted on a CPU, over eight devices, and compiled.

They are compiled for TPUs and GPUs that are not here. What a GPU computes is not measured here:
cuDNN's programs are only lowered.
"""

import dataclasses
import importlib.util
import os
import re
from types import SimpleNamespace

import jax
from jax.experimental import topologies
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import hlo, models, sharding, weights
from gdsd_jax.models import kernels
from tests.reference import random_params, tiny

L, PROMPT = 300, 60  # three tiles of 128 with a filled-up one
SPECS = {
    "full": models.Full(),
    "causal": models.Causal(),
    "block-causal": models.BlockCausal(8, offset=PROMPT),
    "doubled": models.Doubled(PROMPT, 8),
}
SPLASH = models.make_splash(largest_tile=128, interpret=True)
XLA = models.KERNELS["xla"]
VALID = np.ones((3, L), bool)
VALID[1, :37] = VALID[2, :130] = False  # left padding, once of more than a tile
VALID[0, 290:] = False  # a cap


def normal(seed: int, *shape: int, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), dtype)


def outcome(kernel, spec, valid):
    """(attended, gradients of q, k, v), where nobody reads padding columns."""
    read = np.ones_like(VALID) if valid is None else valid
    q, k, v = (normal(seed, 3, L, heads, 8) for seed, heads in ((0, 4), (1, 2), (2, 2)))
    cotangent = normal(3, 3, L, 4, 8) * read[:, :, None, None]

    @jax.jit
    def fn(q, k, v, valid):
        attended, pull = jax.vjp(
            lambda *qkv: kernel.attend(*qkv, kernel.mask(spec, valid, L)), q, k, v
        )
        return attended, *pull(cotangent)

    attended, *gradients = map(np.asarray, fn(q, k, v, valid))
    assert np.all(np.isfinite(attended))
    return attended[read], *gradients


@pytest.mark.parametrize("name, padding", [*((name, True) for name in SPECS), ("full", False)])
def test_splash_is_xla_attention(name, padding):
    valid = VALID if padding else None
    for ours, theirs in zip(outcome(SPLASH, SPECS[name], valid), outcome(XLA, SPECS[name], valid)):
        # float32 sums in another order, over 300 keys
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "name, padding, at_once",
    [("full", True, 1), ("full", False, 1), ("doubled", True, 1), ("causal", False, 3)],
)
def test_some_rows_after_others_are_xla_attention(monkeypatch, name, padding, at_once):
    """A row at a time and all at once, under a mask of their own, one for all, and none."""
    valid, kernel = VALID if padding else None, models.KERNELS["rows"]
    monkeypatch.setattr(kernels, "SCORES_BYTES", at_once * 4 * 4 * L * L)
    for ours, theirs in zip(outcome(kernel, SPECS[name], valid), outcome(XLA, SPECS[name], valid)):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)  # as above


# all goes round; one key head that two devices of query heads read, and seven rows, which stay
# whole
@pytest.mark.parametrize(
    "sizes, kv_heads, rows", [(dict(data=2, fsdp=2), 2, 8), (dict(fsdp=4), 1, 7)]
)
def test_a_denoiser_over_eight_devices(sizes, kv_heads, rows):
    """Features and gradients of weights.

    Under rematerialisation, a shift and the doubled row's positions.
    """
    mesh = sharding.make_mesh(sizes | {"tensor": 2})
    config = tiny(
        kv_heads=kv_heads, head_dim=8, d_model=16, d_ff=32, vocab_size=40, shift=True, remat="full"
    )
    kernel = SPLASH._replace(attend=sharding.split_attention(mesh, SPLASH.attend))
    params = random_params(config, seed=1)
    places = sharding.shardings(mesh, params)
    tokens = np.random.default_rng(3).integers(2, 40, (rows, L)).astype(np.int32)
    valid = VALID[np.arange(rows) % 3]

    def found(denoiser, params):
        def loss(params):
            h = denoiser.features(params, tokens, valid_BxL=valid, attention=SPECS["doubled"])
            return jnp.sum(jnp.where(valid[..., None], h, 0.0) ** 2) / valid.sum(), h

        (_, h), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        return {"h": np.asarray(h)[valid], "gradient": jax.tree.map(np.asarray, gradient)}

    ours = found(
        models.make_denoiser(config, kernel, sharding.row_placer(mesh)),
        jax.device_put(params, places),
    )
    theirs = found(models.make_denoiser(config), params)
    # two layers of float32 sums in another order
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * max(1, np.abs(b).max())),
        ours,
        theirs,
    )


def test_operations_are_counted_in_kernels_and_on_all_devices():
    """Of rows that fill their tiles, as many as XLA's attention has."""
    mesh, shape = (
        sharding.make_mesh(dict(data=2, fsdp=2, tensor=2)),
        jax.ShapeDtypeStruct((8, 256, 4, 8), jnp.float32),
    )

    def count(attend, mask):
        return hlo.operations(jax.make_jaxpr(attend)(shape, shape, shape, mask).jaxpr)

    plain = 2 * 2 * 8 * 4 * 256 * 256 * 8
    assert count(XLA.attend, None) == plain
    splash = SPLASH.mask(models.Full(), None, 256)
    assert (
        count(SPLASH.attend, splash)
        == count(sharding.split_attention(mesh, SPLASH.attend), splash)
        == plain
    )


@pytest.fixture(scope="module")
def topology():
    """`topology(name) -> devices` to compile for."""
    if importlib.util.find_spec("libtpu") is None and not os.environ.get("TPU_LIBRARY_PATH"):
        pytest.skip(
            "the TPU compiler is missing: bash launch/test.sh installs it, "
            'or pip install "jax[tpu]"'
        )
    os.environ |= {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}

    def devices(name: str):
        options = {"chip_config_name": "megacore"} if name.startswith("v4") else {}
        return topologies.get_topology_desc(name, platform="tpu", **options).devices

    return devices


def compiled_gradient(devices, attention_kernel: str) -> str:
    """HLO of a small denoiser's gradient on the doubled row."""
    mesh = sharding.make_mesh(dict(fsdp=2, tensor=2), devices)
    config = tiny(
        heads=4, kv_heads=2, head_dim=64, d_model=128, d_ff=128, dtype="bfloat16", remat="full"
    )
    denoiser = weights.on_mesh(config, mesh, attention_kernel)
    params = weights.abstract(mesh, lambda rng: models.init_params(config, rng))
    rows = [
        jax.ShapeDtypeStruct((4, DOUBLED), dtype, sharding=sharding.rows(mesh))
        for dtype in (jnp.int32, bool)
    ]

    def loss(params, tokens, valid):
        spec = models.Doubled(DOUBLED - 2 * 400, 8)
        return jnp.sum(
            denoiser.features(params, tokens, valid_BxL=valid, attention=spec).astype(jnp.float32)
        )

    return jax.jit(jax.grad(loss)).lower(params, *rows).compile().as_text()


DOUBLED = 1000  # columns; two tiles of 512


def squares(text: str) -> set[str]:
    """The arrays of a program with two sides of a doubled row's length."""
    return set(re.findall(rf"\w+\[(?:\d+,)*(?:{DOUBLED},{DOUBLED}|1024,1024)(?:,\d+)*\]", text))


@pytest.mark.parametrize(
    "name",
    [
        "v5e:2x2",
        *(
            pytest.param(f"{one}:2x2{x}", marks=pytest.mark.slow)
            for one, x in (("v4", "x1"), ("v5p", "x1"), ("v6e", ""))
        ),
    ],
)
def test_splash_compiles_for_tpus_and_holds_no_square(topology, name):
    text = compiled_gradient(topology(name), "auto")
    found = set(re.findall(r"splash_\w+?_(fwd|dq|dkv)_", text))
    assert found == {"fwd", "dq", "dkv"} and not squares(text)


def test_the_search_for_squares_finds_them():
    assert squares(compiled_gradient(jax.devices()[:4], "xla"))


def test_a_long_doubled_row_keeps_few_tiles():
    """The published recipe's row: its 400 tiles hold 9 patterns.

    Of 20 tiles in a row at most 13 are visited.
    """
    mask = kernels.LazyMask(models.Doubled(2000, 4), 10_000, 10_240)
    assert kernels.tiling(10_000, 512) == (512, 10_240)
    found = kernels.splash_kernel(mask, 512, interpret=False).fwd_mask_info
    assert found.partial_mask_blocks.shape[0] < 12 and found.data_next.shape[-1] < 14


GPU = SimpleNamespace(platform="gpu", device_kind="GPU", compute_capability="9.0")
HALF = tiny(dtype="bfloat16", head_dim=64)


@pytest.mark.parametrize(
    "config, device, wanted",
    [
        (tiny(), SimpleNamespace(platform="tpu"), "splash"),
        (HALF, GPU, "cudnn"),
        (tiny(head_dim=64), GPU, "xla"),
        (dataclasses.replace(HALF, head_dim=20), GPU, "xla"),
        (dataclasses.replace(HALF, head_dim=136), GPU, "xla"),
        (HALF, SimpleNamespace(**vars(GPU) | {"compute_capability": "7.5"}), "xla"),
        (HALF, SimpleNamespace(**vars(GPU) | {"compute_capability": "gfx942"}), "xla"),
        (HALF, jax.devices()[0], "rows"),
    ],
)
def test_auto_takes_the_fastest_that_can_serve(config, device, wanted):
    assert (
        models.find_kernel("auto", config, device)
        == models.KERNELS[wanted]
        == models.find_kernel(wanted, config, device)
    )


@pytest.mark.parametrize(
    "name, config, device, said",
    [
        ("flash", HALF, GPU, "choose one of auto, splash, cudnn, rows, xla"),
        ("splash", HALF, GPU, "needs a TPU, this is a gpu"),
        ("cudnn", HALF, jax.devices()[0], "needs an NVIDIA GPU"),
        ("cudnn", tiny(), GPU, "set dtype=bfloat16"),
        ("cudnn", dataclasses.replace(HALF, head_dim=20), GPU, "20 wide"),
        ("rows", HALF, GPU, "is for CPUs, this is a gpu"),
    ],
)
def test_kernels_that_cannot_serve_are_refused(name, config, device, said):
    with pytest.raises(ValueError, match=said):
        models.find_kernel(name, config, device)


@pytest.mark.parametrize(
    "columns, tile, side",
    [(1, 128, 128), (656, 384, 768), (1024, 512, 1024), (10_000, 512, 10_240)],
)
def test_rows_are_filled_up_to_tiles(columns, tile, side):
    assert kernels.tiling(columns, kernels.LARGEST_TILE) == (tile, side)


@pytest.fixture
def cudnn_to_lower_for(monkeypatch):
    """jax asks the driver which cuDNN there is, also where it only lowers."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(
        fused_attention_stablehlo,
        "cuda_versions",
        SimpleNamespace(cudnn_get_version=lambda: 91_000),
    )


@pytest.mark.parametrize("columns", [L, L + 1])
@pytest.mark.parametrize("name, padding", [("full", False), ("full", True), ("doubled", True)])
def test_cudnn_is_what_a_gpu_is_given(cudnn_to_lower_for, name, padding, columns):
    """Forward and gradient on eight devices, with their own rows and heads.

    Nothing has the size of scores besides the mask.
    """
    mesh = sharding.make_mesh(dict(data=2, fsdp=2, tensor=2))
    kernel = models.KERNELS["cudnn"]
    attend, valid = (
        sharding.split_attention(mesh, kernel.attend),
        jnp.ones((4, columns), bool) if padding else None,
    )
    q, k = (jax.ShapeDtypeStruct((4, columns, heads, 64), jnp.bfloat16) for heads in (4, 2))

    def loss(q, k, v):
        return jnp.sum(
            attend(q, k, v, kernel.mask(SPECS[name], valid, columns)).astype(jnp.float32)
        )

    text = (
        jax.jit(jax.grad(loss, (0, 1, 2)))
        .trace(q, k, k)
        .lower(lowering_platforms=("cuda",))
        .as_text()
    )
    even = columns + columns % 2
    bias = "ScaleBias" if padding or columns % 2 else ""
    assert set(re.findall(r"__cudnn\$(\w+)", text)) == {
        f"fmha{bias}Softmax",
        f"fmha{bias}SoftmaxBackward",
    }
    assert f"tensor<1x{even}x2x64xbf16>" in text and f"x{even}x{even}xf32>" not in text
    assert bool(bias) == (f"1x{even}x{even}xbf16>" in text)


@pytest.mark.parametrize("columns", [20, 21])
@pytest.mark.parametrize("name, padding", [("full", False), ("full", True), ("causal", True)])
def test_what_cudnn_is_given_means_the_same(monkeypatch, name, padding, columns):
    """The same question answered by XLA: filling up and cutting off change nothing."""
    plain = jax.nn.dot_product_attention
    monkeypatch.setattr(
        jax.nn,
        "dot_product_attention",
        lambda *args, implementation, **kw: plain(*args, **kw, implementation="xla"),
    )
    q, k, v = (normal(seed, 3, columns, heads, 8) for seed, heads in ((0, 4), (1, 2), (2, 2)))
    valid = jnp.asarray(VALID[:, 30 : 30 + columns]) if padding else None
    mask = XLA.mask(SPECS[name], valid, columns)
    read = np.ones((3, columns), bool) if valid is None else np.asarray(valid)
    ours, theirs = (models.KERNELS[kernel].attend(q, k, v, mask) for kernel in ("cudnn", "xla"))
    np.testing.assert_allclose(np.asarray(ours)[read], np.asarray(theirs)[read], rtol=0, atol=1e-6)
