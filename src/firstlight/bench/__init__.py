"""How fast a config trains on this machine, where the time goes, and which settings would make it
faster.
"""
