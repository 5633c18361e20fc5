"""Scores: a trained reward model, or somebody else's, applied to prompts and completions."""

from rmlab.scoring.model import RewardModel, Scored

__all__ = ["RewardModel", "Scored"]
