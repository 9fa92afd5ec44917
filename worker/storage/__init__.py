"""The store of received and produced objects on disk, and the patient's key in the audit.

Doors: `blobs.Blobs`, `pseudonym.PatientKey`.
"""
