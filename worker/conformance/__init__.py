"""The DICOM Conformance Statement of this installation (PS3.2).

Door: `statement.statement`.
"""
