"""vLLM's engine under several threads: whoever comes joins its next step, and one of those who wait steps for all.

A request then waits for nobody's longer answer, and no thread outlives its caller.

>>> stepper = Stepper(llm)                                                            # doctest: +SKIP
>>> [output] = stepper.run([Ticket({"prompt": "..."}, SamplingParams(max_tokens=8))])   # doctest: +SKIP
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams


@dataclass(eq=False)
class Ticket:
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
        self._coming: list[Ticket] = []
        self._leaving: list[Ticket] = []
        self._open: dict[str, Ticket] = {}  # by the name in the engine's outputs

    def run(self, tickets: list[Ticket]) -> "list[RequestOutput]":
        """The output of each, in order; if one fails the others are given up."""
        with self._turn:
            self._coming += tickets
            try:
                while not all(ticket.output for ticket in tickets):
                    if failed := next((ticket.error for ticket in tickets if ticket.error), None):
                        raise failed
                    if self._stepping:
                        self._turn.wait()
                    else:
                        self._lead()
            except BaseException:
                self._leaving += tickets
                if not self._stepping:  # else whoever steps takes them out
                    self._lead()
                raise
        return [ticket.output for ticket in tickets if ticket.output]

    def _lead(self) -> None:
        """One step, while others may come and go; then all look again."""
        leaving, self._leaving = self._leaving, []
        coming, self._coming = [ticket for ticket in self._coming if ticket not in leaving], []
        self._stepping = True
        self._turn.release()
        try:
            self._step(coming, leaving)
        finally:
            self._turn.acquire()
            self._stepping = False
            self._turn.notify_all()

    def _step(self, coming: list[Ticket], leaving: list[Ticket]) -> None:
        try:
            self._abort(leaving)
            for ticket in coming:
                self._add(ticket)
            for output in self._engine.step() if self._open else []:
                if asked := self._open.get(output.request_id):
                    self._tell(asked, output)
        except BaseException as error:  # nobody's own: all that the engine has is lost
            for ticket in [*self._open.values(), *coming]:
                ticket.error = ticket.error or error
            with suppress(Exception):  # the engine itself may be gone
                self._abort([*self._open.values()])
            if not isinstance(error, Exception):
                raise

    def _add(self, ticket: Ticket) -> None:
        from vllm.sampling_params import RequestOutputKind

        try:
            [ticket.id] = self._llm.enqueue(ticket.prompt, ticket.params, use_tqdm=False)
        except Exception as error:  # this request's own
            ticket.error = error
            return
        state = self._engine.output_processor.request_states[ticket.id]
        if ticket.hear is not None:  # `enqueue` asks for finished outputs alone, whatever the parameters say
            state.output_kind = RequestOutputKind.CUMULATIVE
        self._open[state.external_req_id] = ticket

    def _tell(self, ticket: Ticket, output: "RequestOutput") -> None:
        try:
            if ticket.hear is not None:
                ticket.hear(output.outputs[0].text)
        except Exception as error:  # this listener's own
            ticket.error = error
            self._abort([ticket])
            return
        if output.finished:
            del self._open[output.request_id]
            ticket.output = output

    def _abort(self, tickets: list[Ticket]) -> None:
        ids = [ticket.id for ticket in self._open.values() if ticket in tickets]
        self._open = {name: ticket for name, ticket in self._open.items() if ticket not in tickets}
        if ids:
            self._engine.abort_request(ids, internal=True)
