"""How good a model is: figures of merit, comparison of two models, pictures, report.

Doors: `evaluate.evaluate`, `compare.compare`.
"""
