"""A source by name to three disjoint splits, and the stream that training reads.

May import `step`, whose arrays it fills, and below. A source is a function
`(Request) -> Collection`, see `splits`. Start reading in `datasets`.
"""
