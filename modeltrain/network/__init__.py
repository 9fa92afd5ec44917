"""The network: its architectures, the steps built into it, its heatmap.

Doors: `architectures.build`, `architectures.load_network`.
"""
