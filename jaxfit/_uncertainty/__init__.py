"""How sure: covariances, influence, profiles, resampling, propagation."""
