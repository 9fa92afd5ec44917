"""Delivery of results to their destinations: DICOM, DICOMweb, webhook, HL7.

Doors: `courier.Courier`, `destinations.sender_of`.
"""
