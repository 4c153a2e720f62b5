"""A cache bounded by bytes."""

from segzero.lru import LRUCache


def test_values_are_kept_up_to_a_number_of_bytes():
    cache = LRUCache(100, len)
    for key in "abc":
        cache.put(key, b"x" * 40)
        cache.get("a")
    assert cache.get("b") is None
    assert cache.get("a") is not None and cache.get("c") is not None
    assert cache.held == 80


def test_a_value_that_is_put_again_counts_once():
    cache = LRUCache(100, len)
    cache.put("a", b"x" * 40)
    cache.put("a", b"x" * 60)
    assert cache.held == 60 and cache.get("a") == b"x" * 60


def test_a_value_larger_than_the_limit_is_not_kept():
    cache = LRUCache(100, len)
    cache.put("a", b"x" * 101)
    assert cache.get("a") is None and cache.held == 0
