"""The result objects of one radiograph: pictures, page, and the linked set of DICOM objects.

Door: `result_set.make`.
"""
