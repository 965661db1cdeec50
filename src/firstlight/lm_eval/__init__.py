"""EleutherAI's lm-eval on our models.

The modules here need the extra `lm-eval`, and are imported only for tasks.
"""
