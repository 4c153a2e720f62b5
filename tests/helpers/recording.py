"""Spies around real models, functions and the file system."""

import os
from pathlib import Path


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


def record_syncs(monkeypatch, rename: str) -> list[os.stat_result | str]:
    """Record the status of each file and folder that is synced to the disk, and "name" for each `Path.<rename>`."""
    steps, fsync, give_name = [], os.fsync, getattr(Path, rename)

    def recorded_fsync(descriptor):
        steps.append(os.fstat(descriptor))
        fsync(descriptor)

    def recorded_rename(path, target):
        steps.append("name")
        return give_name(path, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(Path, rename, recorded_rename)
    return steps
