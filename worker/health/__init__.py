"""Is all well: the installation, the destinations, the images.

Doors: `check.run`, `drift.drift`.
"""
