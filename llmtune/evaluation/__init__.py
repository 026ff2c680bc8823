"""Evaluation: did tuning help, by how much, and how sure are we.

`evaluate` answers the held-out rows with base and tuned model and scores both; `EvaluationResult` is what it finds.
"""
