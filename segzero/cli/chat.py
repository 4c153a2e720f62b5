"""The dialogue at the terminal: a line is a question or a command; after each step the rounds' pictures are on disk.

>>> Chat(dialogue, Path("dialogue"), print).run(input)                                    # doctest: +SKIP
Round 1> the mug
instance 1: box 412,220,508,341, predicted IoU 0.93
dialogue/round_1_overlay.png
Round 2> the hand that holds it
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from segzero.answer import ERRORS
from segzero.cli.options import (
    DeviceOption,
    FrameOption,
    PolicyBackendOption,
    PolicyOption,
    PromptOption,
    SegmenterBackendOption,
    SegmenterOption,
    policy_or_shipped,
    segmenter_or_shipped,
)
from segzero.dialogue.dialogue import Dialogue
from segzero.dialogue.registry import Region, Registry, Round
from segzero.errors import UserError, unknown_name
from segzero.viz.text import printable

HELP = """\
a question         [REF:2] in it means what round 2 found, "instance 3" one of them, "it" what the last round found
/ref 2             "it" in the next question means what round 2 found
/refine 3 x,y ...  draw instance 3 again: x,y lies inside it, -x,y outside, x0,y0,x1,y1 is its box
/list              the instances so far
/undo  /clear      take back the last step; forget all rounds
/save [FILE]       write the dialogue as JSON, to go on with by --resume
exit               or quit, q, the end of the input"""
COMMANDS = ["/help", "/ref", "/refine", "/list", "/undo", "/clear", "/save"]
ENDS = {"exit", "quit", "q", "/exit", "/quit"}


@dataclass
class Chat:
    """A dialogue, the folder of its pictures, and who is told what happens."""

    dialogue: Dialogue
    folder: Path
    say: Callable[[str], object]
    about: int | None = None  # the round that "it" means in the next question, if not the last
    written: dict[int, list[Path]] = field(default_factory=dict)  # by round

    def run(self, read: Callable[[str], str]) -> None:
        """Read lines until the end; a mistake is one line, and the dialogue goes on."""
        while True:
            about = f" (about round {self.about})" if self.about else ""
            try:
                line = read(f"Round {len(self.dialogue.registry.rounds) + 1}{about}> ").strip()
                if line.lower() in ENDS:
                    return
                if line:
                    self.do(line)
            except EOFError:
                return
            except UnicodeDecodeError:
                self.say("that is not UTF-8 text")
            except UserError as error:
                self.say(str(error))

    def do(self, line: str) -> None:
        """One line: a question, or a command."""
        if "\0" in line:
            raise UserError("the line holds a null character; leave it out")
        name, _, rest = line.partition(" ")
        words = rest.split()
        if line.lower() == "clear history":  # SegLLM's word for it
            name = "/clear"
        if not name.startswith("/"):
            self._ask(line)
        elif name == "/undo":
            self._step(self.dialogue.undo)
            self.say(f"taken back; the next round is round {len(self.dialogue.registry.rounds) + 1}")
        elif name == "/clear":
            self._step(self.dialogue.clear)
            self.say("all rounds are forgotten; /undo brings them back")
        elif name == "/ref":
            number = _integer(words, "/ref 2")
            round = self.dialogue.registry.round(number)
            if round.state == "unread":
                raise UserError(f"the answer of round {number} could not be read; name another round")
            self.say(f'"it" in the next question means round {number}: {_summary(round)}')
            self.about = number
        elif name == "/refine":
            id = _integer(words[:1], "/refine 3 120,80 -30,40")
            points, labels, box = _clicks(words[1:])
            self._step(lambda: self.dialogue.refine(id, points, labels, box))
            self._tell([self.dialogue.registry.region(id)])
        elif name == "/list":
            self._tell(self.dialogue.registry.regions)
            if not self.dialogue.registry.regions:
                self.say("nothing was found yet")
        elif name == "/save":
            self.say(f"saved: {self.dialogue.save(rest.strip() or self.folder / 'dialogue.json')}")
        elif name == "/help":
            self.say(HELP)
        else:
            raise unknown_name("command", name, COMMANDS)

    def _ask(self, question: str) -> None:
        self._step(lambda: self.dialogue.ask(question, self.about))
        round = self.dialogue.registry.rounds[-1]
        if round.think:
            self.say(f"thinking: {' '.join(printable(round.think).split())}")  # a model may write a terminal's codes
        self._tell(round.regions)
        if not round.regions:
            self.say(_summary(round))
        for path in self.written[round.number]:
            self.say(str(path))

    def _step(self, step: Callable[[], object]) -> None:
        """Take a step, and bring the files into line: rounds that changed are written, those taken back removed."""
        before = self.dialogue.registry.rounds
        step()
        self.about = None
        after: Registry = self.dialogue.registry
        for round in after.rounds:
            if round not in before[round.number - 1 : round.number]:
                self.written[round.number] = list(self.dialogue.save_round(round.number, self.folder).values())
        for number in [number for number in self.written if number > len(after.rounds)]:
            for path in self.written.pop(number):
                with suppress(OSError):
                    path.unlink()

    def _tell(self, regions: tuple[Region, ...] | list[Region]) -> None:
        for region in regions:
            box = ",".join(f"{v:g}" for v in region.box)
            self.say(f"instance {region.id}: box {box}, predicted IoU {region.score:.2f}")


def _summary(round: Round) -> str:
    if round.error is not None:
        return f"the answer could not be read: {round.error}: {ERRORS[round.error]}"
    ids = [str(region.id) for region in round.regions]
    return f"instance{'s' * (len(ids) > 1)} {', '.join(ids)}" if ids else "nothing there"


def _integer(words: list[str], example: str) -> int:
    if len(words) != 1 or not (words[0].isascii() and words[0].isdecimal() and len(words[0]) < 10):
        raise UserError(f"write a number, such as {example}")
    return int(words[0])


def _clicks(words: list[str]) -> tuple[list[tuple[float, float]], list[int], tuple[float, float, float, float] | None]:
    """Points, a label for each, and a box."""
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    box = None
    for word in words:
        try:
            numbers = [float(part) for part in word.removeprefix("-").split(",")]
        except ValueError:
            numbers = []
        if len(numbers) == 4 and not word.startswith("-"):
            box = numbers[0], numbers[1], numbers[2], numbers[3]
        elif len(numbers) == 2:
            points.append((numbers[0], numbers[1]))
            labels.append(0 if word.startswith("-") else 1)
        else:
            raise UserError(f"{word!r}: write x,y for a point inside, -x,y for one outside, x0,y0,x1,y1 for a box")
    return points, labels, box


console = Console(highlight=False)


def chat(
    image: Annotated[str, typer.Argument(help="The image.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Where each round's picture goes.")] = Path("dialogue"),
    memory: Annotated[
        str | None, typer.Option(help="How earlier rounds are told: text (default), marks or crop.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with a dialogue that /save wrote.")] = None,
    policy: PolicyOption = None,
    segmenter: SegmenterOption = None,
    policy_backend: PolicyBackendOption = "auto",
    segmenter_backend: SegmenterBackendOption = "auto",
    frame: FrameOption = None,
    prompt: PromptOption = None,
    device: DeviceOption = "auto",
    max_pixels: Annotated[int, typer.Option(help="Refuse larger images.", min=1)] = 89_000_000,
) -> None:
    """Ask about an image in several rounds: refer to what was found, correct it, take it back."""
    from segzero.cli.chat import Chat
    from segzero.dialogue.dialogue import Dialogue
    from segzero.dialogue.memory import get_memory
    from segzero.images import load_image
    from segzero.pipeline import SegZeroPipeline

    def say(text: str) -> None:
        console.print(text, markup=False, emoji=False, soft_wrap=True)

    if memory is not None:
        get_memory(memory)  # before models are loaded
    picture = load_image(image, max_pixels=max_pixels)
    pipeline = SegZeroPipeline.from_pretrained(
        policy_or_shipped(policy),
        segmenter_or_shipped(segmenter),
        policy_backend=policy_backend,
        segmenter_backend=segmenter_backend,
        frame=frame,
        prompt=prompt,
        device=device,
    )
    if resume is not None:
        dialogue = Dialogue.load(resume, picture, pipeline, memory)
    else:
        dialogue = Dialogue(picture, pipeline, memory or "text")
    say("/help tells what can be said; exit ends")
    Chat(dialogue, out, say).run(input)
