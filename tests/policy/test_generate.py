"""The cache that grows in place, against the library's own that copies."""

import torch
from transformers.cache_utils import DynamicLayer

from segzero.policy.generate import ROOM, RoomyLayer


def test_it_holds_what_the_librarys_cache_holds():
    ours, theirs = RoomyLayer(), DynamicLayer()
    for tokens in [70, 1, 1, ROOM - 3, 1, 1, ROOM + 5, 1]:
        new = torch.randn(4, 2, tokens, 8), torch.randn(4, 2, tokens, 8)
        for got, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
            assert torch.equal(got, expected)
        assert ours.get_seq_length() == theirs.get_seq_length()


def test_kept_rows_go_on_where_they_were():
    layer, rows = RoomyLayer(), torch.tensor([3, 1])
    old, new = torch.randn(4, 2, 70, 8), torch.randn(2, 2, 1, 8)
    layer.update(old, -old)
    layer.keep(rows)
    keys, values = layer.update(new, -new)
    assert torch.equal(keys, torch.cat([old[rows], new], 2)) and torch.equal(values, -keys)
