"""What hlo.py reads of conditions; whole programs are in plan_test.py."""

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
