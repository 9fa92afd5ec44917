"""The DICOM objects that cxrd makes, and the check that each has to pass before it is sent.

Doors: one maker for each kind, and `validate.check`.
"""
