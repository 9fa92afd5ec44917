"""The database of everything that was received, answered and delivered: the truth after a crash.

Doors: `database.open_ledger`, `receipts.Ledger`.
"""
