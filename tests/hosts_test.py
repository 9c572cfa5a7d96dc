"""What processes tell one another, as far as one process can show it."""
import numpy as np
import pytest

from gdsd_jax.hosts import Hosts, start


def test_one_process_is_all_of_them():
    alone = Hosts()
    assert alone.exchange(3) == [3] and alone.first and not alone.any(False) and not alone.said("stop")
    found = alone.merge({"tests": np.arange(5.0, dtype=np.float32)[alone.share(5)]}, 5)
    np.testing.assert_array_equal(found["tests"], np.arange(5.0))


def test_shares_are_put_together_again():
    values = np.arange(7) ** 2
    parts = [{"x": values[Hosts(index, 3).share(7)]} for index in range(3)]
    three = Hosts(1, 3)
    three.exchange = lambda part: parts  # what the service would bring
    np.testing.assert_array_equal(three.merge(parts[1], 7)["x"], values)


@pytest.mark.parametrize(
    "arguments, said",
    [(("a:1", 2, None), "together"), (("a:1", 2, 2), "process_id=2 must lie in 0 .. 1"), (("a", 2, 0), "HOST:PORT")],
)
def test_incomplete_addresses_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        start(*arguments)
