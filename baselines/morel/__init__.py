"""MOReL: an ensemble that knows where it is ignorant, and a policy that is taught to stay out of there."""
