"""Runs model-written programs in a jail and says which tests they pass; standard library only."""

from gdsd_jax.sandbox.pool import (
    Limits,
    Program,
    Sandbox,
    SandboxConfig,
    SandboxError,
    Verdict,
    open_sandbox,
)

__all__ = [
    "Limits",
    "Program",
    "Sandbox",
    "SandboxConfig",
    "SandboxError",
    "Verdict",
    "open_sandbox",
]
