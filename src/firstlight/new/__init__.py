"""`firstlight new`: a package of your own, to begin from."""
