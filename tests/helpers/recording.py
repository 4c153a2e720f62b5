"""Spies around real models and functions."""


class RecordingModel:
    """The policy or the segmenter itself; it keeps the requests, prompts and number of images that it gets."""

    def __init__(self, model) -> None:
        self.model, self.requests, self.embedded, self.prompts = model, [], 0, []

    def __getattr__(self, name):
        return getattr(self.model, name)

    def generate(self, requests, sampling):
        self.requests += requests
        return self.model.generate(requests, sampling)

    def embed(self, images):
        self.embedded += len(images)
        return self.model.embed(images)

    def decode(self, embeddings, prompts, all_masks=False):
        self.prompts += [prompt for each in prompts for prompt in each]
        return self.model.decode(embeddings, prompts, all_masks)


class RecordingFunction:
    """A function itself; it keeps the positional arguments of each call."""

    def __init__(self, function) -> None:
        self.function, self.calls = function, []

    def __call__(self, *arguments):
        self.calls.append(arguments)
        return self.function(*arguments)
