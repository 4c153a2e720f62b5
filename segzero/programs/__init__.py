"""Programs over segmentation: short straight-line texts of operators, parsed and typed, never executed by Python.

>>> program = parse_program('A=FIND("the mug")\\nB=FIND("the laptop")\\nRESULT(LEFT_OF(A, B))')
>>> [(step.operator.name, step.gives) for step in program.steps]
[('FIND', 'Masks'), ('FIND', 'Masks'), ('LEFT_OF', 'Masks'), ('RESULT', 'Masks')]
>>> trace = run_program(pipeline, "desk.jpg", program)                            # doctest: +SKIP
>>> trace.segmentation.union.shape                                                # doctest: +SKIP
(480, 640)
"""

from segzero.programs.parser import Program, parse_program
from segzero.programs.run import ProgramLimits, run_program
from segzero.programs.trace import Trace
from segzero.programs.writer import ProgramWriter

__all__ = ["Program", "ProgramLimits", "ProgramWriter", "Trace", "parse_program", "run_program"]
