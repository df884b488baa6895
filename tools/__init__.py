"""What makes the data that ship with the project again; no experiment needs it."""
