"""Planning: scorers of action sequences, and planners that use nothing but a scorer."""
