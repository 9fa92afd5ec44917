"""What runs the work: the analysis task, the threads of the daemon, and analysis without a server.

Doors: `daemon.Daemon`, `offline.analyze`.
"""
