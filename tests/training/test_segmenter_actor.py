"""Each image is encoded once for all answers about it; the cache is bounded in bytes."""

import asyncio

import pytest

from segzero.errors import UserError
from segzero.masks import decode, mask_iou
from segzero.segmenter.protocol import MaskPrompt
from segzero.training.segmenter_actor import SegmenterActor


def prompts_of(sample):
    return [MaskPrompt(box=o.box, points=o.points[:1], labels=(1,) * len(o.points[:1])) for o in sample.objects]


@pytest.fixture
def asked(samples):
    return [sample for sample in samples if sample.objects]


def test_an_image_is_encoded_once_for_all_its_answers(segmenter, asked):
    actor = SegmenterActor(lambda: segmenter)

    async def run():
        wanted = [actor.draw(sample.image, [prompts_of(sample)] * 8) for sample in asked]
        return await asyncio.gather(*wanted, *[actor.draw(sample.image, [prompts_of(sample)]) for sample in asked])

    drawn = asyncio.run(run())
    assert actor.encoded == len(asked)
    for sample, masks in zip(asked, drawn, strict=False):
        assert len(masks) == 8
        assert all(answer == masks[0] for answer in masks)
        for mask, true in zip(masks[0], sample.objects, strict=True):
            assert mask_iou(decode(mask), decode(true.rle)) > 0.6


def test_answers_keep_their_own_objects(segmenter, asked):
    sample = asked[0]
    actor = SegmenterActor(lambda: segmenter)
    wanted = [[], prompts_of(sample), prompts_of(sample) * 2, []]
    drawn = asyncio.run(actor.draw(sample.image, wanted))
    assert [len(masks) for masks in drawn] == [len(answer) for answer in wanted]


def test_answers_without_objects_encode_nothing(segmenter, asked):
    actor = SegmenterActor(lambda: segmenter)
    assert asyncio.run(actor.draw(asked[0].image, [[], []])) == [[], []]
    assert actor.encoded == 0


def test_the_cache_keeps_to_its_bytes(segmenter, asked):
    size = segmenter.embed([asked[0].open()]).nbytes
    actor = SegmenterActor(lambda: segmenter, cache_bytes=int(2.5 * size))

    async def run():
        for sample in [*asked[:3], asked[2], asked[0]]:
            await actor.draw(sample.image, [prompts_of(sample)])

    asyncio.run(run())
    assert actor.cache.held <= 2.5 * size
    assert actor.encoded == 4  # the third again from the cache, the first anew


def test_a_failure_is_raised_in_the_caller(segmenter, asked):
    actor = SegmenterActor(lambda: segmenter)

    async def run():
        with pytest.raises(UserError, match="no such image"):
            await actor.draw("gone.png", [prompts_of(asked[0])])
        return await actor.draw(asked[0].image, [prompts_of(asked[0])])

    assert len(asyncio.run(run())[0]) == len(asked[0].objects)


def test_a_caller_that_gives_up_stops_no_other(segmenter, asked):
    actor = SegmenterActor(lambda: segmenter)

    async def run():
        gone = asyncio.create_task(actor.draw(asked[0].image, [prompts_of(asked[0])]))
        await asyncio.sleep(0)  # it is in the queue now
        gone.cancel()
        return await asyncio.wait_for(actor.draw(asked[1].image, [prompts_of(asked[1])]), 60)

    assert len(asyncio.run(run())[0]) == len(asked[1].objects)
