"""Training: recipes, the run, and where it stands.

Doors: `train.train`, `recipe.RECIPES`.
"""
