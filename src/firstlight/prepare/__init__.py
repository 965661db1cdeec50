"""The verb `prepare`: texts of any size to shards of tokens, once, for many runs."""
