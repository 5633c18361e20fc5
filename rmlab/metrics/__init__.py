"""Measures of a reward model: pure functions over gathered rows, and small torchmetrics classes that gather them."""
