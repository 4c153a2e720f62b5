"""Each image is encoded once, however many answers ask about it; the cache is bounded in bytes."""

import asyncio

import pytest

from segzero.errors import UserError
from segzero.masks import decode, mask_iou
from segzero.segmenter.protocol import MaskPrompt
from segzero.training.segmenter_actor import SegmenterService


def prompts_of(sample):
    return [MaskPrompt(box=o.box, points=o.points[:1], labels=(1,) * len(o.points[:1])) for o in sample.objects]


@pytest.fixture
def asked(samples):
    return [sample for sample in samples if sample.objects]


def test_one_encoding_an_image_for_all_its_answers(segmenter, asked):
    service = SegmenterService(segmenter)

    async def run():
        wanted = [service.draw(sample.image, [prompts_of(sample)] * 8) for sample in asked]
        return await asyncio.gather(*wanted, *[service.draw(sample.image, [prompts_of(sample)]) for sample in asked])

    drawn = asyncio.run(run())
    assert service.encoded == len(asked)
    for sample, masks in zip(asked, drawn, strict=False):
        assert len(masks) == 8
        assert all(answer == masks[0] for answer in masks)
        for mask, true in zip(masks[0], sample.objects, strict=True):
            assert mask_iou(decode(mask), decode(true.rle)) > 0.6


def test_answers_keep_their_own_objects(segmenter, asked):
    sample = asked[0]
    service = SegmenterService(segmenter)
    wanted = [[], prompts_of(sample), prompts_of(sample) * 2, []]
    drawn = asyncio.run(service.draw(sample.image, wanted))
    assert [len(masks) for masks in drawn] == [len(answer) for answer in wanted]


def test_answers_without_objects_encode_nothing(segmenter, asked):
    service = SegmenterService(segmenter)
    assert asyncio.run(service.draw(asked[0].image, [[], []])) == [[], []]
    assert service.encoded == 0


def test_the_cache_keeps_to_its_bytes(segmenter, asked):
    size = segmenter.embed([asked[0].open()]).nbytes
    service = SegmenterService(segmenter, cache_bytes=int(2.5 * size))

    async def run():
        for sample in [*asked[:3], asked[2], asked[0]]:
            await service.draw(sample.image, [prompts_of(sample)])

    asyncio.run(run())
    assert service.cache.held <= 2.5 * size
    assert service.encoded == 4  # the third again from the cache, the first anew


def test_whoever_asks_hears_of_a_failure(segmenter, asked):
    service = SegmenterService(segmenter)

    async def run():
        with pytest.raises(UserError, match="no such image"):
            await service.draw("gone.png", [prompts_of(asked[0])])
        return await service.draw(asked[0].image, [prompts_of(asked[0])])

    assert len(asyncio.run(run())[0]) == len(asked[0].objects)
