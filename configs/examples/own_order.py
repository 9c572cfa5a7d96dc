"""A denoising order of your own: from left to right, which is also built in, as
sampler.remasking=left_to_right. The highest number is committed first.

python launch/main.py --config=configs/examples/own_order.py
    as long as the embedded default of configs/coding.py: about 9 minutes on 2 cores
python launch/main.py --config=configs/examples/own_order.py:tiny,sft.steps=20,rounds=2
    to try the file: a minute, too short to learn anything

Any other recipe takes the file too: --config=configs/coding.py:llada,\
sampler.remasking=own_order.py,... B rows, C columns, V vocabulary.
"""

import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import coding, common


def get_config(arg=None):
    _, overrides = common.parse(arg, ("tiny",))
    recipe = coding.embedded()
    own = {"name": "own-order", "greeting": "left to right", "sampler": {"remasking": __file__}}
    recipe.update(ConfigDict(own))
    return common.config(recipe, overrides)


def ORDER(config, scores_BxCxV, tokens_BxC, probability_BxC, rng_B):
    order_C = -jnp.arange(tokens_BxC.shape[1], dtype=jnp.float32)
    return jnp.broadcast_to(order_C[None, :], tokens_BxC.shape)
