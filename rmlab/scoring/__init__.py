"""Scores: a trained reward model, or somebody else's, applied to prompts and completions."""

from rmlab.scoring.model import RewardModel, Scored
from rmlab.scoring.reference import Reference
from rmlab.scoring.selection import best_of_n
from rmlab.scoring.whitening import whiten

__all__ = ["Reference", "RewardModel", "Scored", "best_of_n", "whiten"]
