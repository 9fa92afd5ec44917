"""The database of the ledger and of the tasks: connections, and transactions that take their turn.

Doors: `connection.connect`, `transactions.Database`.
"""
