"""Everything in cxrd that is DICOM, and nothing that is not: no torch, no database, no queue, no model."""
