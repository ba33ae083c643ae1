"""From a command line to a cell: schema, identity, folder. Imports no torch, so that a launcher can look at
hundreds of cells without waiting for it.
"""
