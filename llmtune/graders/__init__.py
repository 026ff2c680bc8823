"""Graders: what scores an answer of a model, written once, and the trial that shows what a grader pays for."""

from llmtune.graders.rows import read_answers, read_rows
from llmtune.graders.scoring import Answer, GraderProcess, Score
from llmtune.graders.trial import KindScores, Trial, try_grader
from llmtune.job.graders import Grader, load_grader, make_grader

__all__ = [
    "Answer",
    "Grader",
    "GraderProcess",
    "KindScores",
    "Score",
    "Trial",
    "load_grader",
    "make_grader",
    "read_answers",
    "read_rows",
    "try_grader",
]
