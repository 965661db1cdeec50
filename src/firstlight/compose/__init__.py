"""From the words of a command line to a composed config, with mistakes told before anything is
written.
"""
