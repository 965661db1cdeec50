"""How fast a config trains here, where the time goes, and which settings are faster."""
