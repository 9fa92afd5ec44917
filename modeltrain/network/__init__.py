"""The network: its architectures, the steps built into it, its heatmap.

Doors: `architectures.build_network`, `architectures.load_network`.
"""
