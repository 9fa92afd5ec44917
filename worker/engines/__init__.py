"""The engines: the daemon and its threads, the task, analysis without a server, and back-fill.

Doors: `daemon.Daemon`, `offline.analyze`, `pull.pull`.
"""
