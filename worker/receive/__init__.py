"""Receipt of objects: from the network, and from an archive that already holds them.

Doors: `intake.Intake`, `backfill.fetch_series`.
"""
