"""A demonstration: drawn radiographs, an archive and a viewer of one's own.

Door: `demo.run`.
"""
