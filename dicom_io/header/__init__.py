"""The header: attributes read with care, files opened with care, and which objects are eligible.

Doors: `reading.read_header`, `eligibility.judge`.
"""
