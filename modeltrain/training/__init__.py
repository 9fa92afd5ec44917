"""Training: recipes, the run, and where it stands.

Doors: `train.run`, `recipe.RECIPES`.
"""
