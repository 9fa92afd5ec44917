"""A model as a folder: its card, its preprocessing, its decisions. No torch.

Doors: `card.load_card`, `registry.Registry`, `decision.Decider`.
"""
