"""The model in service: engine, batches, and the analysis of one radiograph.

Doors: `serving.Serving`, `analyzer.Reader`.
"""
