"""What a run will take, before it begins: here, and on devices that are not here."""
