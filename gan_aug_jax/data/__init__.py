"""A source's name to three disjoint splits, and the stream of batches read from the host.

May import `step`, whose arrays it fills, and the folders below it. Start reading in
`splits`, which explains the words, then `datasets`.
"""
