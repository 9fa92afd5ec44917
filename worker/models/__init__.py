"""A site's models: evaluated, compared, promoted, retrained; and the data for that.

Door: `training_data.training_data`.
"""
