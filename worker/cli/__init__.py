"""The command line: each module parses arguments, calls one function, prints.

Door: `app.main`.
"""
