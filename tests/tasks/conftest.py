"""What the tests of several tasks share."""

import pytest

from gdsd_jax.tasks.mathematics.checker import Checker


@pytest.fixture(scope="module")
def shared():
    """One process that compares answers of mathematics."""
    with Checker(1) as one:
        yield one
