"""The dialogue at a terminal: each line is a question or a command, and the pictures on disk follow the rounds.

>>> ChatSession(dialogue, Path("dialogue"), print).run(input)                              # doctest: +SKIP
Round 1> the mug
instance 1: box 412,220,508,341, predicted IoU 0.93
dialogue/round_1_overlay.png
Round 2> the hand that holds it
"""

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from segzero.answer import ERRORS
from segzero.dialogue.dialogue import Dialogue
from segzero.dialogue.registry import Region, Round
from segzero.errors import UserError, unknown_name
from segzero.masks import Box, Point
from segzero.viz.text import printable

HELP = """\
a question         [REF:2] in it means what round 2 found, "instance 3" one of them, "it" what the last round found
/ref 2             "it" in the next question means what round 2 found
/refine 3 x,y ...  draw instance 3 again: x,y lies inside it, -x,y outside, x0,y0,x1,y1 is its box
/list              the instances so far
/undo  /clear      take back the last step; forget all rounds
/save [FILE]       write the dialogue as JSON, to go on with by --resume
exit               or quit, q, the end of the input"""
EXIT_WORDS = {"exit", "quit", "q", "/exit", "/quit"}


@dataclass
class ChatSession:
    """A dialogue, the folder of its pictures, and the function that prints a line."""

    dialogue: Dialogue
    folder: Path
    print_line: Callable[[str], object]
    reference: int | None = None  # the round that "it" means in the next question, if not the last
    files: dict[int, list[Path]] = field(default_factory=dict)  # written for each round

    def run(self, read_line: Callable[[str], str]) -> None:
        """Read lines until the end; a mistake is one line, and the dialogue goes on."""
        while True:
            about = f" (about round {self.reference})" if self.reference else ""
            try:
                line = read_line(f"Round {len(self.dialogue.registry.rounds) + 1}{about}> ").strip()
                if line.lower() in EXIT_WORDS:
                    return
                if line:
                    self.execute(line)
            except EOFError:
                return
            except UnicodeDecodeError:
                self.print_line("that is not UTF-8 text")
            except UserError as error:
                self.print_line(str(error))

    def execute(self, line: str) -> None:
        """Ask a question or carry out a command."""
        if "\0" in line:
            raise UserError("the line holds a null character; leave it out")
        if line.lower() == "clear history":  # as SegLLM's users write it
            line = "/clear"
        commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self.print_line(HELP),
            "/ref": self.refer,
            "/refine": self.refine,
            "/list": lambda _: self.list_regions(),
            "/undo": lambda _: self.undo(),
            "/clear": lambda _: self.clear(),
            "/save": self.save,
        }
        name, _, arguments = line.partition(" ")
        if not line.startswith("/"):
            self.ask(line)
        elif name in commands:
            commands[name](arguments)
        else:
            raise unknown_name("command", name, list(commands))

    def ask(self, question: str) -> None:
        """Ask the question as a new round, and print the answer and the files it is drawn in."""
        self._step(lambda: self.dialogue.ask(question, self.reference))
        round = self.dialogue.registry.rounds[-1]
        if round.think:
            self.print_line(f"thinking: {' '.join(printable(round.think).split())}")  # it may hold a terminal's codes
        self._print_regions(round.regions)
        if not round.regions:
            self.print_line(_summary(round))
        for path in self.files[round.number]:
            self.print_line(str(path))

    def refer(self, arguments: str) -> None:
        """Let "it" in the next question mean the round with this number."""
        number = _parse_number(arguments.split(), "/ref 2")
        round = self.dialogue.registry.round(number)
        if round.state == "unread":
            raise UserError(f"the answer of round {number} could not be read; name another round")
        self.print_line(f'"it" in the next question means round {number}: {_summary(round)}')
        self.reference = number

    def refine(self, arguments: str) -> None:
        """Draw an instance again from clicks."""
        words = arguments.split()
        number = _parse_number(words[:1], "/refine 3 120,80 -30,40")
        points, labels, box = _parse_clicks(words[1:])
        self._step(lambda: self.dialogue.refine(number, points, labels, box))
        self._print_regions([self.dialogue.registry.region(number)])

    def list_regions(self) -> None:
        """Print all instances so far."""
        self._print_regions(self.dialogue.registry.regions)
        if not self.dialogue.registry.regions:
            self.print_line("nothing was found yet")

    def undo(self) -> None:
        """Take back the last step."""
        self._step(self.dialogue.undo)
        self.print_line(f"taken back; the next round is round {len(self.dialogue.registry.rounds) + 1}")

    def clear(self) -> None:
        """Forget all rounds."""
        self._step(self.dialogue.clear)
        self.print_line("all rounds are forgotten; /undo brings them back")

    def save(self, arguments: str) -> None:
        """Write the dialogue to a file, by default one beside the pictures."""
        self.print_line(f"saved: {self.dialogue.save(arguments.strip() or self.folder / 'dialogue.json')}")

    def _step(self, step: Callable[[], object]) -> None:
        """Take a step, write the files of the rounds that it changed, and remove those of rounds that are gone."""
        before = self.dialogue.registry.rounds
        step()
        self.reference = None
        after = self.dialogue.registry.rounds
        for round in after:
            if round not in before[round.number - 1 : round.number]:
                self.files[round.number] = list(self.dialogue.save_round(round.number, self.folder).values())
        for number in [number for number in self.files if number > len(after)]:
            for path in self.files.pop(number):
                with suppress(OSError):
                    path.unlink()

    def _print_regions(self, regions: Iterable[Region]) -> None:
        for region in regions:
            box = ",".join(f"{v:g}" for v in region.box)
            self.print_line(f"instance {region.id}: box {box}, predicted IoU {region.score:.2f}")


def _summary(round: Round) -> str:
    if round.error is not None:
        return f"the answer could not be read: {round.error}: {ERRORS[round.error]}"
    ids = [str(region.id) for region in round.regions]
    return f"instance{'s' * (len(ids) > 1)} {', '.join(ids)}" if ids else "nothing there"


def _parse_number(words: list[str], example: str) -> int:
    if len(words) != 1 or not (words[0].isascii() and words[0].isdecimal() and len(words[0]) < 10):
        raise UserError(f"write a number, such as {example}")
    return int(words[0])


def _parse_clicks(words: list[str]) -> tuple[list[Point], list[int], Box | None]:
    """Points, a label for each (1 inside the object, 0 outside), and a box."""
    points: list[Point] = []
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
