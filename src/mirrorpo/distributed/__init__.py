"""Several processes that train one cell: what they say to each other, and how parameters lie divided among
them.
"""
