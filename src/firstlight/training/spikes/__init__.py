"""Steps whose loss or gradient norm is far above that of the steps before them."""
