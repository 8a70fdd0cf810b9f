"""Code that several baselines share: chunked training, seeds, z-scores, snapshots of networks."""
