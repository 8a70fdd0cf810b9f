"""Files that are whole or absent, object stores, and finished cells."""
