"""vLLM's engine under several threads: whoever comes joins its next step, and one of those who wait steps for all.

A request then waits for nobody's longer answer, and no thread outlives its caller.

>>> stepper = Stepper(llm)                                                            # doctest: +SKIP
>>> [output] = stepper.run([Work({"prompt": "..."}, SamplingParams(max_tokens=8))])   # doctest: +SKIP
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams


@dataclass(eq=False)
class Work:
    """A request, and in the end its output or why there is none."""

    prompt: dict[str, Any]
    params: "SamplingParams"
    hear: Callable[[str], object] | None = None  # told the text so far after each step, in whatever thread steps
    output: "RequestOutput | None" = None
    error: BaseException | None = None
    id: str = ""  # the engine's own, once it is there


class Stepper:
    """Owns the engine: nothing else may add requests or step."""

    def __init__(self, llm: "LLM") -> None:
        self._llm, self._engine = llm, llm.llm_engine
        self._turn = threading.Condition()  # guards all below; the engine belongs to whoever set `_stepping`
        self._stepping = False
        self._coming: list[Work] = []
        self._leaving: list[Work] = []
        self._open: dict[str, Work] = {}  # by the name in the engine's outputs

    def run(self, works: list[Work]) -> "list[RequestOutput]":
        """The output of each, in order; if one fails the others are given up."""
        with self._turn:
            self._coming += works
            try:
                while not all(work.output for work in works):
                    if failed := next((work.error for work in works if work.error), None):
                        raise failed
                    if self._stepping:
                        self._turn.wait()
                    else:
                        self._lead()
            except BaseException:
                self._leaving += works
                raise
        return [work.output for work in works if work.output]

    def _lead(self) -> None:
        """One step, while others may come and go; then all look again."""
        leaving, self._leaving = self._leaving, []
        coming, self._coming = [work for work in self._coming if work not in leaving], []
        self._stepping = True
        self._turn.release()
        try:
            self._step(coming, leaving)
        finally:
            self._turn.acquire()
            self._stepping = False
            self._turn.notify_all()

    def _step(self, coming: list[Work], leaving: list[Work]) -> None:
        try:
            self._abort(leaving)
            for work in coming:
                self._add(work)
            outputs = self._engine.step() if self._open else []
        except BaseException as error:  # nobody's own: all that the engine has is lost
            for work in [*self._open.values(), *coming]:
                work.error = work.error or error
            with suppress(Exception):  # the engine itself may be gone
                self._abort([*self._open.values()])
            if not isinstance(error, Exception):
                raise
            return
        for output in outputs:
            if asked := self._open.get(output.request_id):
                self._tell(asked, output)

    def _add(self, work: Work) -> None:
        from vllm.sampling_params import RequestOutputKind

        try:
            [work.id] = self._llm.enqueue(work.prompt, work.params, use_tqdm=False)
        except Exception as error:  # this request's own
            work.error = error
            return
        state = self._engine.output_processor.request_states[work.id]
        if work.hear is not None:  # `enqueue` asks for finished outputs alone, whatever the parameters say
            state.output_kind = RequestOutputKind.CUMULATIVE
        self._open[state.external_req_id] = work

    def _tell(self, work: Work, output: "RequestOutput") -> None:
        try:
            if work.hear is not None:
                work.hear(output.outputs[0].text)
        except Exception as error:  # this listener's own
            work.error = error
            self._abort([work])
            return
        if output.finished:
            del self._open[output.request_id]
            work.output = output

    def _abort(self, works: list[Work]) -> None:
        ids = [work.id for work in self._open.values() if work in works]
        self._open = {name: work for name, work in self._open.items() if work not in works}
        if ids:
            self._engine.abort_request(ids, internal=True)
