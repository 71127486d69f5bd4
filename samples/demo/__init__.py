"""The main job: index real files, be killed half-way, recover, and prove that the totals are right.

`files.py` knows nothing of the framework, `indexing.py` is the program that a user would write, `worker.py` is the process
that gets killed, `run_log.py` counts what ran, and `__main__.py` directs the play. Run it with `make demo`.
"""
