"""Pages, figures and tables of what is in a working directory.

Reads files and computes no results. May import every folder but `cli`. Start reading in
`run_report`.
"""
