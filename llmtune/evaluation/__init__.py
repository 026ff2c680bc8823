"""Evaluation: whether tuning helped, by how much, and with which confidence.

`evaluate` answers the held-out rows with base and tuned model and scores both in an `EvaluationResult`.
"""
