"""The shipped policy, whose answers about masks are given: it has not learnt to look at them."""

from segzero.policy.protocol import Reply

KEEP = '<think>right</think><answer>{"keep": true}</answer>'


class Judge:
    """The shipped policy, except that it answers looks at masks by `says`, in turn, the last one again and again."""

    def __init__(self, policy, *says: str) -> None:
        self.policy, self.says, self.looks = policy, says, []
        self.name, self.frame, self.prompt = policy.name, policy.frame, policy.prompt
        self.supports_concurrency = False

    def generate(self, requests, sampling=None):
        if "outlined" not in str(requests[0].messages):
            return self.policy.generate(requests, sampling)
        self.looks.append([request.image for request in requests])
        text = self.says[min(len(self.looks), len(self.says)) - 1]
        return [Reply(text, 1, False) for _ in requests]

    def close(self) -> None:
        """Leave the shared policy open."""
