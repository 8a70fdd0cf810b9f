"""MOReL: an ensemble that detects where its predictions are unreliable, and a policy that avoids these states."""
