"""The low-rank model, its gradients and its training."""
