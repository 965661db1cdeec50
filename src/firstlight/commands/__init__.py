"""The verbs that are one module each: what they take, and what they do."""
