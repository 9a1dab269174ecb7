"""HTTP as every peer meets it: connections, which HTTP is read, how much at once, reading a
request, answering an error.
"""
