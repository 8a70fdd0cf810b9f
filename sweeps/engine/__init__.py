"""Running tasks: on Ray, or in this process."""
