"""Samplers: one engine for training rollouts and evaluation."""

from gdsd_jax.sampling.cache import branch_shares
from gdsd_jax.sampling.config import SamplerConfig, attention_doubts, idle_doubts, stop_ids_of
from gdsd_jax.sampling.drift import Drift, drift, spread, take_rows
from gdsd_jax.sampling.orders import ORDERS
from gdsd_jax.sampling.replay import existing, pass_numbers, replay
from gdsd_jax.sampling.rollout import (
    Passes,
    SamplerState,
    check_model,
    is_stop,
    length_through,
    make_passes,
    make_rollout_fn,
    with_defaults,
)

__all__ = [
    "ORDERS",
    "Drift",
    "Passes",
    "SamplerConfig",
    "SamplerState",
    "attention_doubts",
    "branch_shares",
    "check_model",
    "drift",
    "existing",
    "idle_doubts",
    "is_stop",
    "length_through",
    "make_passes",
    "make_rollout_fn",
    "pass_numbers",
    "replay",
    "spread",
    "stop_ids_of",
    "take_rows",
    "with_defaults",
]
