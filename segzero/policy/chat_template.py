"""Rendering of messages with a checkpoint's chat template, shared by the backends that hold the weights."""

from typing import TYPE_CHECKING, Any

from segzero.errors import UserError, one_line
from segzero.frames import smart_size
from segzero.policy.checkpoint import Checkpoint
from segzero.policy.protocol import Request

if TYPE_CHECKING:
    from transformers import ProcessorMixin


def load_processor(checkpoint: Checkpoint) -> "ProcessorMixin":
    """Load the checkpoint's tokenizer, chat template and image processor."""
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(checkpoint.path, trust_remote_code=False)
    except ImportError:
        raise
    except Exception as error:  # files can be broken in many ways, and each has its own exception
        raise UserError(f"the processor of {checkpoint.path} does not load: {one_line(error)}") from error
    if not processor.chat_template:
        raise UserError(f"{checkpoint.path} has no chat template; take an instruct checkpoint")
    return processor


def render(processor: "ProcessorMixin", messages: list[dict[str, Any]]) -> str:
    """Render messages with the checkpoint's chat template, up to where the answer begins."""
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)


def render_request(request: Request, checkpoint: Checkpoint, processor: "ProcessorMixin", limit: int) -> str:
    """Render a request's prompt; refuse one that, with its images, leaves no room for an answer in `limit` tokens."""
    for size in (image.size for image in request.images):
        if smart_size(size, checkpoint.factor, checkpoint.min_pixels, checkpoint.max_pixels) != size:
            raise UserError(
                f"an image of {size[0]}x{size[1]} would be resized again by {checkpoint.path}; "
                "pass it through policy.frame.fit, and crop it if it is very narrow"
            )
    text = render(processor, request.messages)
    ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
    placeholders = ids.count(processor.image_token_id)
    count = len(request.images)
    if placeholders != count:
        has = "one image" if count == 1 else f"{count} images"
        raise UserError(f"a request has {has}; the messages rendered for {checkpoint.path} place {placeholders}")
    seen = sum(checkpoint.image_tokens(image.size) for image in request.images)
    length = len(ids) - count + seen
    if length >= limit:
        whose = "the image's" if count == 1 else "the images'"
        raise UserError(
            f"a prompt of {length} tokens ({seen} of them {whose}) leaves no room for an "
            f"answer within {limit}; shorten the question or take a frame with fewer pixels"
        )
    return text
