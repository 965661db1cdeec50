"""What evaluations measure beside the loss. A metric adds up a few numbers, and is one number made
of the totals.
"""
