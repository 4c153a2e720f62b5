"""Passes of an update: rows that share prompts, divided so that each pass fits into memory."""

from collections.abc import Callable, Sequence


def split_groups(
    prompts: Sequence[int],
    prompt_lengths: Sequence[int],
    answer_lengths: Sequence[int],
    most: int,
    passes: int | None = None,
) -> list[list[int]]:
    """Divide rows into passes of at most `most` packed tokens, as few as possible or a given number of them.

    Answers to one prompt stay together unless they don't fit or there would be too few passes. Returns each pass's
    rows.

    >>> split_groups([0, 0, 1, 1, 2], [9, 9, 9, 9, 9], [1, 1, 1, 1, 1], most=20)
    [[0, 1, 4], [2, 3]]
    """
    from verl.utils.seqlen_balancing import get_seqlen_balanced_partitions

    def tokens(rows: Sequence[int]) -> int:
        return prompt_lengths[rows[0]] + sum(answer_lengths[row] for row in rows)

    by_prompt: dict[int, list[int]] = {}
    for row, number in enumerate(prompts):
        by_prompt.setdefault(number, []).append(row)
    groups = [part for rows in by_prompt.values() for part in _cut(rows, tokens, most)]
    while len(groups) < (passes or 1):
        largest = max((group for group in groups if len(group) > 1), key=tokens)
        groups.remove(largest)
        groups += [largest[::2], largest[1::2]]
    sizes = [tokens(group) for group in groups]
    for count in range(passes or min(len(groups), -(-sum(sizes) // most)), len(groups) + 1):
        parts = get_seqlen_balanced_partitions(sizes, k_partitions=count, equal_size=False)
        if passes or max(sum(sizes[i] for i in part) for part in parts) <= most:
            break
    return sorted(sorted(row for i in part for row in groups[i]) for part in parts)


def _cut(rows: list[int], tokens: Callable[[Sequence[int]], int], most: int) -> list[list[int]]:
    """Cut one prompt's rows into as few parts as fit."""
    for count in range(1, len(rows) + 1):
        parts = [rows[i::count] for i in range(count)]
        if max(map(tokens, parts)) <= most:
            break
    return parts
