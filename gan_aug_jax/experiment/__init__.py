"""Runs and their arms, ablations and their cells.

May import every folder but `report` and `cli`. Start reading in `runs`.
"""
