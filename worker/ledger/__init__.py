"""The database of receipts, findings, deliveries and events: the truth after a crash.

Doors: `database.open_ledger`, `receipts.Ledger`.
"""
