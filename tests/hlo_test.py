"""What hlo.py reads of programs; whole ones are in plan_test.py."""

import types

import jax
from jax.experimental import pallas as pl
import jax.numpy as jnp
import numpy as np
import pytest

from gdsd_jax import hlo

TEXT = """
%body (p: (s32[], f32[])) -> (s32[], f32[]) {
  %p = (s32[], f32[]) parameter(0)
  %x = f32[] get-tuple-element(%p), index=1
  %sum = f32[8] all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %out = (s32[], f32[]) tuple(%x, %x)
}
%condition (p: (s32[], f32[])) -> pred[] {
  %p = (s32[], f32[]) parameter(0)
  %x = TYPE get-tuple-element(%p), index=0
  %limit = TYPE constant(VALUE)
  ROOT %less = pred[] compare(%x, %limit), direction=LT
}
ENTRY %main (a: (s32[], f32[])) -> (s32[], f32[]) {
  ROOT %loop = (s32[], f32[]) while(%a), condition=%condition, body=%body
}
"""


@pytest.mark.parametrize(
    "kind, limit, times", [("s32[]", "5", 5), ("f32[]", "5", 9), ("f32[]", "-1e+09", 9)]
)
def test_only_whole_numbers_count_a_loop(kind, limit, times):
    """A loop that ends at some float runs as often as the caller says."""
    text = TEXT.replace("TYPE", kind).replace("VALUE", limit)
    (found,) = hlo.collectives(text, passes=9)
    assert (found.times, found.open_loop) == (times, kind == "f32[]")


def test_operations_are_counted_through_loops_and_their_gradients():
    def loss(w):
        return jax.numpy.sum(
            jax.lax.scan(lambda x, _: (x @ w, None), jax.numpy.ones((3, 4)), None, length=5)[0]
        )

    assert hlo.operations(jax.make_jaxpr(loss)(np.ones((4, 4))).jaxpr) == 5 * 2 * 3 * 4 * 4
    backward = hlo.operations(jax.make_jaxpr(jax.grad(loss))(np.ones((4, 4))).jaxpr)
    assert backward == 3 * 5 * 2 * 3 * 4 * 4


def test_products_in_int8_are_counted_apart():
    """Also those inside loops; a product with one factor in int8 is none of them."""

    def both(x, w):
        x8, w8 = x.astype("int8"), w.astype("int8")
        sums = jax.lax.dot(x8, w8, preferred_element_type="int32")
        loop = jax.lax.scan(
            lambda y, _: ((y.astype("int8") @ w8).astype("int32"), None), sums, None, 5
        )
        return loop[0], x @ w, x @ w8

    jaxpr = jax.make_jaxpr(both)(np.ones((3, 4), np.float32), np.ones((4, 4), np.float32)).jaxpr
    one = 2 * 3 * 4 * 4
    assert hlo.operations(jaxpr) == 8 * one
    assert hlo.operations(jaxpr, dtype="int8") == 6 * one
    assert hlo.operations(jaxpr, dtype="float32") == one


PROGRAM = """HloModule m
%cond (p: (s32[])) -> pred[] {
  %p = (s32[]) parameter(0)
  %c = s32[]{:T(128)} constant(6)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%body (p: (s32[])) -> (s32[]) {
  %g = bf16[8,128]{1,0:T(8,128)(2,1)} all-gather(%x), \
replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}
  ROOT %t = (s32[]) tuple(%g)
}
%ring_cond (p: (f32[2], u32[])) -> pred[] {
  %p = (f32[2], u32[]) parameter(0)
  %c = u32[]{:T(128)} constant(16)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  ROOT %lt = pred[] compare(%i, %c), direction=LT
}
%ring_body (p: (f32[2], u32[])) -> (f32[2], u32[]) {
  %p = (f32[2], u32[]) parameter(0)
  %two = u32[]{:T(128)} constant(2)
  %i = u32[]{:T(128)} get-tuple-element(%p), index=1
  %x = f32[2] collective-permute(%y), source_target_pairs={{0,1},{1,0}}
  %j = u32[]{:T(128)} add(%i, %two)
  ROOT %t = (f32[2]{0}, u32[]{:T(128)}) tuple(%x, /*index=1*/%j)
}
%open (p: (s32[])) -> pred[] {
  ROOT %a = pred[] and(%x, %y)
}
%all-reduce-scatter.1 (a: f32[4,4]) -> f32[4,4] {
  ROOT %s = f32[4,4] all-reduce(%a), replica_groups={{0,1,2,3}}, to_apply=%sum
}
%start (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, \
frontend_attributes={chain_id="1"}
}
%done (a: bf16[2]) -> bf16[8] {
  ROOT %g = bf16[8] all-gather(%a), channel_id=3, replica_groups={{0,1,2,3}}, \
frontend_attributes={chain_id="1"}
}
%few (a: f32[4]) -> f32[4] {
  ROOT %x = f32[4] all-to-all(%a), replica_groups={{0,1}}
}
%many (a: f32[4]) -> f32[4] {
  ROOT %x = f32[64] all-to-all(%a), replica_groups={{0,1}}
}
ENTRY %main (a: f32[4]) -> f32[4] {
  %o = f32[4] conditional(%i, %a, %a, %a), branch_computations={%few, %many, %few}
  %s = f32[4,4] fusion(%a), kind=kCustom, calls=%all-reduce-scatter.1
  %b = bf16[8] fusion(%a), kind=kCustom, calls=%start
  %d = bf16[8] fusion(%b), kind=kCustom, calls=%done
  %r = f32[4,4] all-reduce(%a), replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}, to_apply=%sum
  %f = ((bf16[2,4]{1,0:T(4,128)(2,1)}, f32[3]{0}), (bf16[8,4]{1,0}, f32[12]{0})) \
all-gather-start(%a, %c), replica_groups={{0,1,2,3}}, dimensions={0}
  %h = ((bf16[16,4]{1,0}), bf16[2,4]{1,0}) reduce-scatter-start(%a), \
replica_groups=mesh['axis_0'=8,'axis_1'=1] {'axis_0'}, to_apply=%sum
  %z = (f32[2,2]{1,0}, bf16[4]{0}) all-reduce-start(%a, %c), replica_groups={{0,1}}, to_apply=%sum
  %n = (f32[8,128], u32[], token[]) send(%a, %k), channel_id=9, \
frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}
  %w = (s32[]) while(%t), condition=%cond, body=%body
  %q = (f32[2], u32[]) while(%u), condition=%ring_cond, body=%ring_body
  ROOT %v = (s32[]) while(%t), condition=%open, body=%body
}
"""


def test_collectives_are_counted_through_loops_and_conditions():
    found = hlo.collectives(PROGRAM, passes=10)
    across, several, reduce = sorted(
        (one for one in found if one.kind == "all-reduce"), key=lambda one: one.devices
    )
    assert (several.sent, several.devices) == (16 + 8, (0, 1))
    assert (reduce.sent, reduce.devices, reduce.times, reduce.depth) == (64, (0, 4), 1, 0)
    assert (
        across.between_slices
        and across.sent == 4096
        and sum(one.between_slices for one in found) == 1
    )
    scatter, begun = (one for one in found if one.kind == "reduce-scatter")
    assert (scatter.sent, scatter.devices) == (48, (0, 1, 2, 3))
    assert (begun.sent, begun.devices) == (7 * 16, tuple(range(8)))
    # sixteen places, two in a pass of the loop
    (ring,) = (one for one in found if one.kind == "collective-permute")
    assert (ring.sent, ring.times, ring.open_loop) == (8, 8, False)
    (branch,) = (one for one in found if one.kind == "all-to-all")  # the one that sends the most
    assert (branch.sent, branch.times) == (128, 1)
    gathers = sorted(
        (one.times, one.open_loop, one.sent, one.devices)
        for one in found
        if one.kind == "all-gather"
    )
    assert gathers == [
        (1, False, 12, (0, 1, 2, 3)),
        (1, False, 48 + 36, (0, 1, 2, 3)),
        (6, False, 1536, (0, 2, 4, 6)),
        (10, True, 1536, (0, 2, 4, 6)),
    ]


BRANCHES = """HloModule m
%read (a: f32[4]) -> f32[4] {
  ROOT %s = f32[4] conditional(%i, %a, %a), branch_computations={%few, %many}
}
%few (a: f32[4]) -> f32[4] {
  ROOT %x = f32[4] all-to-all(%a), replica_groups={{0,1}}
}
%many (a: f32[4]) -> f32[4] {
  ROOT %x = f32[64] all-to-all(%a), replica_groups={{0,1}}
}
%write (a: f32[4]) -> f32[4] {
  ROOT %x = f32[256] all-to-all(%a), replica_groups={{0,1}}
}
%body (a: f32[4]) -> f32[4] {
  ROOT %o = f32[4] conditional(%i, %a, %a), CHOICE
}
%open (p: f32[4]) -> pred[] {
  ROOT %a = pred[] and(%x, %y)
}
ENTRY %main (a: f32[4]) -> f32[4] {
  ROOT %v = f32[4] while(%t), condition=%open, body=%body
}
"""


@pytest.mark.parametrize(
    "choice",
    ["branch_computations={%read, %write}", "true_computation=%write, false_computation=%read"],
)
def test_exchanges_of_branches_are_shared_out(choice):
    """Of 64 passes four write; a quarter of the others reads few."""
    text = BRANCHES.replace("CHOICE", choice)

    def times(shares):
        return {one.sent: one.times for one in hlo.collectives(text, 64, shares)}

    assert times(()) == {512: 64}  # the costliest
    assert times(((0.9375, 0.0625), (0.25, 0.75))) == {8: 15, 128: 45, 512: 4}
    assert times(((0.9375, 0.0625),)) == {128: 60, 512: 4}
    # the compiler has made another condition of it
    assert times(((0.9375, 0.0625), (0.25, 0.25, 0.5))) == {128: 60, 512: 4}


@pytest.mark.parametrize("masked", [False, True])
def test_operations_of_cudnn_are_those_of_its_products(monkeypatch, masked):
    """Forward as XLA's; the gradient computes the scores once more."""
    version = types.SimpleNamespace(cudnn_get_version=lambda: 91000)
    monkeypatch.setattr(jax._src.cudnn.fused_attention_stablehlo, "cuda_versions", version)
    query = jax.ShapeDtypeStruct((2, 6, 4, 8), jnp.bfloat16)
    key = jax.ShapeDtypeStruct((2, 10, 2, 8), jnp.bfloat16)  # two heads share each
    mask = np.ones((2, 1, 6, 10), bool) if masked else None

    def count(implementation, gradient):
        def attend(query, key):
            return jax.nn.dot_product_attention(
                query, key, key, mask=mask, implementation=implementation
            ).sum()

        function = jax.grad(attend, (0, 1)) if gradient else attend
        return hlo.operations(jax.make_jaxpr(function)(query, key).jaxpr)

    product = 2 * 2 * 4 * 6 * 10 * 8
    assert count("cudnn", False) == count("xla", False) == 2 * product
    assert count("cudnn", True) == count("xla", True) + product == 7 * product


def test_conditions_of_a_kernel_are_not_those_that_shares_tell_of():
    def kernel(x_ref, y_ref):
        y_ref[...] = jnp.zeros((8, 8))

        @pl.when(x_ref[0, 0] > 0)
        def _():
            y_ref[...] = x_ref[...] @ x_ref[...]

    def call(x):
        return pl.pallas_call(kernel, jax.ShapeDtypeStruct((8, 8), jnp.float32), interpret=True)(x)

    def fn(x):
        return jax.lax.cond(x[0, 0] > 1, call, lambda x: x, x)

    jaxpr = jax.make_jaxpr(fn)(jnp.ones((8, 8))).jaxpr
    # the branch that is not taken first, then the kernel; the next entry has three branches
    counted = hlo.operations(jaxpr, shares=((0.75, 0.25), (0.2, 0.3, 0.5)))
    assert counted == 0.25 * 2 * 8**3


def test_operations_of_branches_are_their_mean_where_shares_are_told():
    def two(x):
        inner = jax.lax.cond(x[0, 0] > 1, lambda: x @ x, lambda: x)
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ x @ x @ x + inner, lambda: x)

    def nested(x):
        return jax.lax.cond(x[0, 0] > 0, two, lambda x: x @ x, x)

    jaxpr = jax.make_jaxpr(nested)(np.ones((4, 4))).jaxpr
    product = 2 * 4**3
    assert hlo.operations(jaxpr) == 4 * product
    # a true condition is the second branch
    mean = hlo.operations(jaxpr, shares=((0.75, 0.25), (0.5, 0.5)))
    assert mean == (0.75 * 1 + 0.25 * 0.5 * (1 + 3)) * product
