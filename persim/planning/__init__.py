"""Planning: scoring of action sequences on a model, and planners that know only a scorer."""
