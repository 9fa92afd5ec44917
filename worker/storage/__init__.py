"""The store of received and produced objects on disk, and what is kept of a patient.

Doors: `blobs.Blobs`, `pseudonym.PatientKey`.
"""
