"""Steps whose loss or gradient is nan or inf: not made, told, and after too many the end of the
run.
"""
