"""What a model is worth: figures of merit, comparison of two models, pictures, report.

Doors: `evaluate.ask`, `compare.compare`.
"""
