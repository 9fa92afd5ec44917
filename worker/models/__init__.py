"""A site's models: evaluated, compared, promoted, retrained; and the data for that.

Doors: `promotion.promote`, `evaluation.evaluate`, `retraining.retrain`, `reanalysis.reanalyze`,
`training_data.training_data`.
"""
