"""Numbers and how sure they are: curves, classification, text metrics, intervals, comparison, diagnosis.

Import the module you need (`llmtune.metrics.points`, `llmtune.metrics.classification`, ...): the statistical ones
bring numpy, scikit-learn or scipy along when they are used, `points` and `diagnosis` bring nothing.
"""
