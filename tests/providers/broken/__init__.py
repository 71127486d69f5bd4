"""Deliberately broken memory providers: one for each way to break a promise, and the suite must find each.

`variants.py` says how a variant is made, `running.py` how the suite runs against it in a moment; the other modules are the
catalogue, one for each group of promises.
"""
